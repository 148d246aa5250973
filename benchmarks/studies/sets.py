# SPDX-License-Identifier: Apache-2.0
"""The speed and safety of large sets of images: python -m benchmarks.studies.sets [PARTS] [--json FILE]

encode   32x32 PNGs a second with a sampler that takes no time, and the slowdown that writing causes for real samplers
verify   the time to verify 20 000 PNGs of 32x32, and a .npz of 1 GB
million  1 000 000 images: the memory to create them, and the time until a second run detects that the set is complete
split    10 000 images of digits-ve by one process, by two under torchrun, and by three shards with two kills each
kills    a small set killed 100 times at random moments, with a random number of shards, checked after each kill
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
from scoresde_fast.generate.verify import verify

COMMAND = [sys.executable, "-m", "scoresde_fast.cli"]
SAMPLE = ["sample", "digits-ve", "--solver", "dpmpp_2m_sde", "--grid", "karras", "--steps", "4", "--strict"]


class Stub:
    """A sampler that returns fixed images, selected by seed; each batch calls ``work`` and sleeps for ``seconds``."""

    nfe, batch_dependent, implementation = 1, False, ""
    device = torch.device("cpu")

    def __init__(self, size: int = 32, seconds: float = 0.0, work: Callable[[], object] | None = None) -> None:
        self.size, self.seconds, self.work = size, seconds, work
        self.images = torch.rand(1024, 3, size, size, generator=torch.Generator().manual_seed(0))

    def describe(self) -> dict[str, Any]:
        return {"model": "stub", "size": self.size}

    def stream(
        self, seeds: Sequence[int], batch_size: int, on_step: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        for start in range(0, len(seeds), batch_size):
            batch = list(seeds[start : start + batch_size])
            if self.work is not None:
                self.work()
            time.sleep(self.seconds)
            yield batch, self.images[torch.tensor(batch) % len(self.images)]


def encode(folder: Path) -> dict[str, Any]:
    """Return images a second for each format, and the slowdown of samplers while earlier batches are written."""
    count, batch = 20_000, 200
    rates = {}
    for suffix in ("", ".npz", ".zip", ".tar"):
        begin = time.perf_counter()
        out = folder / (suffix or "png") / f"set{suffix}"
        generate(Stub(), range(count), out, batch_size=batch, grid=False, progress=False)
        rates[suffix or "folder"] = count / (time.perf_counter() - begin)
    # A device that is faster than any real one: the CPU only waits for it.
    device = Stub(seconds=batch / 2200)
    on_device = [_rates(device, folder / f"device{run}", count, batch) for run in range(3)]
    # A network that shares the two cores with the writing.
    sampler = sf.Sampler(sf.load("digits-vp"), solver="sa", steps=20, grid="logsnr", batch_size=100)
    sampler.sample(range(100))
    on_cpu = [_rates(sampler, folder / f"network{run}", 400, 100) for run in range(3)]
    return {
        "images_per_s": rates,
        "queue_mb": pipeline.QUEUE_BYTES / 2**20,
        "device_images_per_s": _medians(on_device),
        "network_on_the_same_cores_images_per_s": _medians(on_cpu),
    }


def _rates(sampler: Any, out: Path, count: int, batch: int) -> tuple[float, float]:
    """Return images a second of a sampler without and with writing."""
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


def check(folder: Path) -> dict[str, Any]:
    """Return the seconds to verify a folder of PNGs, and the rate for an archive, whose bytes are read once."""
    generate(Stub(), range(20_000), folder / "set", batch_size=200, progress=False)
    generate(Stub(64), range(81_920), archive := folder / "set.npz", batch_size=256, progress=False)
    size = archive.stat().st_size / 1e6
    pngs, npz = ([_seconds_to_verify(out) for _ in range(3)] for out in (folder / "set", archive))
    return {"pngs_s": statistics.median(pngs), "npz_mb": size, "npz_mb_per_s": size / statistics.median(npz)}


def _seconds_to_verify(out: Path) -> float:
    begin = time.perf_counter()
    findings = verify(out)
    seconds = time.perf_counter() - begin
    assert not (findings.damaged or findings.damaged_files or len(findings.missing))  # its images repeat
    return seconds


def million(folder: Path, formats: Sequence[str] = ("folder", ".npz", ".tar", ".npy")) -> dict[str, Any]:
    """Return the cost to create a set and to find it complete, and the seconds until one more seed is sampled."""
    results = {}
    for name in formats:
        suffix = "" if name == "folder" else name
        out = folder / f"million{suffix}"
        created = _in_process(_million, out)
        resumed, grown = _in_process(_resume, out, 10**6), _in_process(_resume, out, 10**6 + 1)
        results[name] = {
            "made_s": created["seconds"],
            "made_mb": created["memory_mb"],
            "resumed_s": resumed["seconds"],
            "resumed_mb": resumed["memory_mb"],
            "grown_until_first_batch_s": grown["first_batch_s"],
        }
        print(name, results[name], flush=True)
        subprocess.run(["rm", "-rf", *map(str, folder.glob("million*"))], check=True)
    return results


def _million(out: Path) -> dict[str, float]:
    begin = time.perf_counter()
    generate(Stub(8), range(10**6), out, batch_size=1024, progress=False)
    return {"seconds": time.perf_counter() - begin}


def _resume(out: Path, count: int) -> dict[str, float]:
    begin = time.perf_counter()
    starts: list[float] = []
    stub = Stub(8, work=lambda: starts.append(time.perf_counter()))
    generate(stub, range(count), out, batch_size=1024, progress=False)
    return {"seconds": time.perf_counter() - begin, "first_batch_s": (starts[0] if starts else begin) - begin}


def _in_process(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Run a function in a separate process; return its results and the peak memory of the process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(_measure, function, arguments).result()


def _measure(function: Callable[..., dict[str, float]], arguments: tuple[Any, ...]) -> dict[str, float]:
    torch.set_num_threads(1)
    result = function(*arguments)
    return {**result, "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def split(folder: Path, count: int = 10_000) -> dict[str, Any]:
    """Generate the same set in three ways, and check that the files are identical."""
    options = ["--seeds", f"0-{count - 1}", "--batch-size", "100", "--out"]
    seconds = {}
    begin = time.perf_counter()
    _run([*COMMAND, *SAMPLE, *options, str(folder / "one")])
    seconds["one process"] = time.perf_counter() - begin
    begin = time.perf_counter()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "scoresde_fast.cli"]
    _run([*torchrun, *SAMPLE, *options, str(folder / "torchrun")], {"OMP_NUM_THREADS": "1"})
    seconds["two under torchrun"] = time.perf_counter() - begin
    begin = time.perf_counter()
    generator = random.Random(0)
    for shard in range(1, 4):
        command = [*COMMAND, *SAMPLE, *options, str(folder / "shards"), "--shard", f"{shard}/3"]
        for _ in range(2):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            time.sleep(generator.uniform(5, 12))
            process.send_signal(signal.SIGKILL)
            process.wait()
        _run(command)
    seconds["three shares, two kills each"] = time.perf_counter() - begin
    digests = {name: tree_digest(folder / name) for name in ("one", "torchrun", "shards")}
    assert len(set(digests.values())) == 1, digests
    return {"images": count, "sha256": digests["one"], "identical": True, "seconds": seconds}


def tree_digest(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of all files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, env={**os.environ, **(environment or {})}, stdout=subprocess.DEVNULL)


def kills(folder: Path, times: int = 100) -> dict[str, Any]:
    """Generate sets of 2 000 small images, killed at random moments, until there were ``times`` kills."""
    count, generator = 2000, random.Random(1)
    killed = sets = 0
    generate(Stub(8), range(count), folder / "whole", batch_size=10, progress=False)
    whole = tree_digest(folder / "whole")
    context = multiprocessing.get_context("fork")
    while killed < times:
        out = folder / f"killed{sets}"
        sets += 1
        for _ in range(5):
            shards = generator.choice((1, 2, 3))
            processes = [
                context.Process(target=_generate_slowly, args=(out, Shard(index, shards), count))
                for index in range(shards)
            ]
            for process in processes:
                process.start()
            time.sleep(generator.uniform(0.05, 0.5))
            for process in processes:
                if process.is_alive() and process.pid is not None:
                    os.kill(process.pid, signal.SIGKILL)
                process.join()
                if process.exitcode == -signal.SIGKILL:
                    killed += 1
            store = open_store(out)
            if store.manifest.exists():
                done = Manifest.read(store.manifest).done
                assert done is not None
                assert len(dict(store.read(done))) == len(done), "the manifest lists images that are missing"
        generate(Stub(8), range(count), out, batch_size=10, progress=False)
        assert tree_digest(out) == whole, out
    return {"kills": killed, "sets": sets, "images": count, "identical": True}


def _generate_slowly(out: Path, shard: Shard, count: int) -> None:
    generate(Stub(8, seconds=0.005), range(count), out, batch_size=10, shard=shard, progress=False)


PARTS = {"encode": encode, "verify": check, "million": million, "split": split, "kills": kills}


def main() -> None:
    """Measure the chosen parts, each in a temporary folder."""
    arguments = parser(__doc__)
    arguments.add_argument("parts", nargs="*", default=list(PARTS))
    arguments.add_argument("--formats", nargs="+", help="formats of million to measure again: folder or a suffix")
    arguments.add_argument("--folder", type=Path, help="folder for the temporary sets (default: the system's)")
    arguments.add_argument("--json", type=Path, help="output file; the results of other parts are kept")
    chosen = arguments.parse_args()
    results = json.loads(chosen.json.read_text()) if chosen.json and chosen.json.exists() else {}
    for part in chosen.parts:
        with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
            if part == "million" and chosen.formats:
                results[part] = {**results.get(part, {}), **million(Path(folder), chosen.formats)}
            else:
                results[part] = PARTS[part](Path(folder))
        print(part, json.dumps(results[part], indent=2), flush=True)
    if chosen.json:
        save(results, chosen.json)


if __name__ == "__main__":
    main()
