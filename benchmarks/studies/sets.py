# SPDX-License-Identifier: Apache-2.0
"""The speed and safety of large sets of images: python -m benchmarks.studies.sets [PARTS] [--json FILE]

encode   32x32 PNGs a second with a sampler that costs nothing, and the slowdown of a sampler that costs something
million  1 000 000 images: the memory to make them, and the time until a second run finds the set finished
split    10 000 images of digits-ve by one process, by two under torchrun, by three shares with two kills each
kills    a small set killed 100 times at random moments, in random numbers of shares, checked after each
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

import scoresde_fast as sf
from benchmarks.files import parser, save
from scoresde_fast.generate import Shard, generate, pipeline
from scoresde_fast.generate.manifest import Manifest
from scoresde_fast.generate.stores import open_store

COMMAND = [sys.executable, "-m", "scoresde_fast.cli"]
SAMPLE = ["sample", "digits-ve", "--solver", "dpmpp_2m_sde", "--grid", "karras", "--steps", "4", "--strict"]


class Stub:
    """A sampler whose seeds choose among fixed images; a batch takes ``seconds``."""

    nfe, batch_dependent = 1, False
    device = torch.device("cpu")

    def __init__(self, size: int = 32, seconds: float = 0.0, work: Callable[[], object] | None = None) -> None:
        self.size, self.seconds, self.work = size, seconds, work
        self.busy = 0.0
        self.images = torch.rand(1024, 3, size, size, generator=torch.Generator().manual_seed(0))

    def describe(self) -> dict[str, Any]:
        return {"model": "stub", "size": self.size}

    def stream(
        self, seeds: Sequence[int], batch_size: int, on_step: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        for start in range(0, len(seeds), batch_size):
            batch = list(seeds[start : start + batch_size])
            begin = time.perf_counter()
            if self.work is not None:
                self.work()
            time.sleep(self.seconds)
            self.busy += time.perf_counter() - begin
            yield batch, self.images[torch.tensor(batch) % len(self.images)]


def encode(folder: Path) -> dict[str, Any]:
    """Return PNGs a second, and the slowdown of a sampler's batches while others are written."""
    count, batch = 20_000, 200
    rates = {}
    for suffix in ("", ".npz", ".zip", ".tar"):
        begin = time.perf_counter()
        out = folder / (suffix or "png") / f"set{suffix}"
        generate(Stub(), range(count), out, batch_size=batch, grid=False, progress=False)
        rates[suffix or "folder"] = count / (time.perf_counter() - begin)
    # Waiting for a device that is faster than any real one.
    device = Stub(seconds=batch / 2200)
    beside = [_rates(device, folder / f"device{place}", count, batch) for place in range(3)]
    # A network on the same two cores as the writing.
    sampler = sf.Sampler(sf.load("digits-vp"), solver="sa", steps=20, grid="logsnr", batch_size=100)
    sampler.sample(range(100))
    shared = [_rates(sampler, folder / f"network{place}", 400, 100) for place in range(3)]
    return {
        "images_per_s": rates,
        "queue_mb": pipeline.QUEUE_BYTES / 2**20,
        "device_images_per_s": _medians(beside),
        "network_on_the_same_cores_images_per_s": _medians(shared),
    }


def _rates(sampler: Any, out: Path, count: int, batch: int) -> tuple[float, float]:
    """Return images a second of a sampler alone, and with its images written."""
    begin = time.perf_counter()
    for _ in sampler.stream(range(count), batch):
        pass
    alone = time.perf_counter() - begin
    begin = time.perf_counter()
    generate(sampler, range(count), out, batch_size=batch, grid=False, progress=False)
    return count / alone, count / (time.perf_counter() - begin)


def _medians(readings: list[tuple[float, float]]) -> dict[str, float]:
    alone, written = (statistics.median(column) for column in zip(*readings, strict=True))
    slower = statistics.median(alone / written - 1 for alone, written in readings)
    return {"alone": alone, "written": written, "slower": slower}


def million(folder: Path, formats: Sequence[str] = ("folder", ".npz", ".tar", ".npy")) -> dict[str, Any]:
    """Return seconds until a run finds a finished set finished, and until a run with one more seed starts."""
    found = {}
    for name in formats:
        suffix = name if name != "folder" else ""
        out = folder / f"million{suffix}"
        made = _alone(_million, out)
        resumed, grown = _alone(_resume, out, 10**6), _alone(_resume, out, 10**6 + 1)
        found[name] = {
            "made_s": made["seconds"],
            "made_mb": made["memory_mb"],
            "resumed_s": resumed["seconds"],
            "resumed_mb": resumed["memory_mb"],
            "grown_until_first_batch_s": grown["first_batch_s"],
        }
        print(name, found[name], flush=True)
        subprocess.run(["rm", "-rf", *map(str, folder.glob("million*"))], check=True)
    return found


def _million(out: Path) -> dict[str, float]:
    begin = time.perf_counter()
    generate(Stub(8), range(10**6), out, batch_size=1024, progress=False)
    return {"seconds": time.perf_counter() - begin}


def _resume(out: Path, count: int) -> dict[str, float]:
    begin = time.perf_counter()
    first = begin

    def note() -> None:
        nonlocal first
        first = time.perf_counter()

    generate(Stub(8, work=note), range(count), out, batch_size=1024, progress=False)
    return {"seconds": time.perf_counter() - begin, "first_batch_s": first - begin}


def _alone(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Run a function in a separate process; returns its results and the process's peak memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(_measure, function, arguments).result()


def _measure(function: Callable[..., dict[str, float]], arguments: tuple[Any, ...]) -> dict[str, float]:
    torch.set_num_threads(1)
    result = function(*arguments)
    return {**result, "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def split(folder: Path, count: int = 10_000) -> dict[str, Any]:
    """Make the same set in three ways and compare digests."""
    options = ["--seeds", f"0-{count - 1}", "--batch-size", "100", "--out"]
    one = {"OMP_NUM_THREADS": "1"}
    seconds = {}
    begin = time.perf_counter()
    _run([*COMMAND, *SAMPLE, *options, str(folder / "one")])
    seconds["one process"] = time.perf_counter() - begin
    begin = time.perf_counter()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "scoresde_fast.cli"]
    _run([*torchrun, *SAMPLE, *options, str(folder / "torchrun")], one)
    seconds["two under torchrun"] = time.perf_counter() - begin
    begin = time.perf_counter()
    generator = random.Random(0)
    for share in range(1, 4):
        command = [*COMMAND, *SAMPLE, *options, str(folder / "shares"), "--shard", f"{share}/3"]
        for _ in range(2):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            time.sleep(generator.uniform(5, 12))
            process.send_signal(signal.SIGKILL)
            process.wait()
        _run(command)
    seconds["three shares, two kills each"] = time.perf_counter() - begin
    digests = {name: tree_digest(folder / name) for name in ("one", "torchrun", "shares")}
    assert len(set(digests.values())) == 1, digests
    return {"images": count, "sha256": digests["one"], "identical": True, "seconds": seconds}


def tree_digest(folder: Path) -> str:
    """Return the SHA-256 of the names and bytes of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, env={**os.environ, **(environment or {})}, stdout=subprocess.DEVNULL)


def kills(folder: Path, times: int = 100) -> dict[str, Any]:
    """Make sets of 2 000 small images, killed at random moments, until ``times`` kills."""
    count, generator, killed, rounds = 2000, random.Random(1), 0, 0
    generate(Stub(8), range(count), folder / "whole", batch_size=10, progress=False)
    whole = tree_digest(folder / "whole")
    context = multiprocessing.get_context("fork")
    while killed < times:
        out = folder / f"killed{rounds}"
        rounds += 1
        for _ in range(5):
            shares = generator.choice((1, 2, 3))
            started = [
                context.Process(target=_slowly, args=(out, Shard(index, shares), count)) for index in range(shares)
            ]
            for process in started:
                process.start()
            time.sleep(generator.uniform(0.05, 0.5))
            for process in started:
                if process.is_alive() and process.pid is not None:
                    os.kill(process.pid, signal.SIGKILL)
                process.join()
                killed += process.exitcode == -signal.SIGKILL
            store = open_store(out)
            if store.manifest.exists():
                done = Manifest.read(store.manifest).done
                assert done is not None
                assert len(dict(store.read(done))) == len(done), "the manifest counts missing images"
        generate(Stub(8), range(count), out, batch_size=10, progress=False)
        assert tree_digest(out) == whole, out
    return {"kills": killed, "sets": rounds, "images": count, "identical": True}


def _slowly(out: Path, shard: Shard, count: int) -> None:
    generate(Stub(8, seconds=0.005), range(count), out, batch_size=10, shard=shard, progress=False)


PARTS = {"encode": encode, "million": million, "split": split, "kills": kills}


def main() -> None:
    """Measure the parts, each in a folder that is removed after it."""
    arguments = parser(__doc__)
    arguments.add_argument("parts", nargs="*", default=list(PARTS))
    arguments.add_argument("--formats", nargs="+", help="of million: only these, folder or a suffix; others are kept")
    arguments.add_argument("--folder", type=Path, help="folder in which sets are made (default: a temporary one)")
    arguments.add_argument("--json", type=Path, help="the results' file; the results of other parts are kept")
    chosen = arguments.parse_args()
    found = json.loads(chosen.json.read_text()) if chosen.json and chosen.json.exists() else {}
    for part in chosen.parts:
        with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
            if part == "million" and chosen.formats:
                found[part] = {**found.get(part, {}), **million(Path(folder), chosen.formats)}
            else:
                found[part] = PARTS[part](Path(folder))
        print(part, json.dumps(found[part], indent=2), flush=True)
    if chosen.json:
        save(found, chosen.json)


if __name__ == "__main__":
    main()
