# SPDX-License-Identifier: Apache-2.0
"""Overhead: the time of sampling outside the network, on a CPU: python -m benchmarks.studies.overhead

Measures the import time of the package and of PyTorch, the time to sample 64 images of digits-ve in 300
predictor-corrector steps (600 network evaluations), and the share of a run's time outside the network.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from torch import nn

import scoresde_fast as sf
from benchmarks.files import RESULTS, parser, save
from scoresde_fast.loop.loop import Loop
from scoresde_fast.loop.table_runner import TableRunner

REPEATS = 5
BATCH = 32


def import_seconds() -> dict[str, float]:
    """Return the median seconds to import torch, then the package, then all public names."""
    code = (
        "import time; a = time.perf_counter(); import torch; b = time.perf_counter(); import scoresde_fast as sf;"
        "c = time.perf_counter(); [getattr(sf, n) for n in sf.__all__]; d = time.perf_counter();"
        "print(b - a, c - b, d - c)"
    )
    runs = [
        [float(word) for word in subprocess.check_output([sys.executable, "-c", code], text=True).split()]
        for _ in range(REPEATS)
    ]
    torch_seconds, package, names = (statistics.median(column) for column in zip(*runs, strict=True))
    return {"torch": torch_seconds, "scoresde_fast": package, "public_names": names}


def share_outside_network(steps: int) -> float:
    """Return the median share of a run's time that is spent outside the network, on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one CPU worker, so that the times in and outside the network add up
    sampler = sf.Sampler(sf.load("digits-ve"), "pc", steps)
    assert isinstance(sampler.runner, TableRunner)
    loop = sampler.runner.prepare(BATCH)
    assert isinstance(loop, Loop) and isinstance(loop.evaluate, nn.Module)
    network = loop.evaluate
    clock = {"inside": 0.0}
    network.register_forward_pre_hook(lambda *_: clock.update(entered=time.perf_counter()))
    network.register_forward_hook(
        lambda *_: clock.update(inside=clock["inside"] + time.perf_counter() - clock["entered"])
    )
    shares = []
    for _ in range(REPEATS):
        clock["inside"], start = 0.0, time.perf_counter()
        sampler.sample(range(BATCH))
        shares.append(1 - clock["inside"] / (time.perf_counter() - start))
    torch.set_num_threads(threads)
    return statistics.median(shares)


def command_line_run() -> tuple[float, str]:
    """Return the seconds that the command of `make sample` takes as a new process, and its output."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--solver", "pc", "--steps", "300", "--seeds", "0-63", "--out", "set"]
        command = [sys.executable, "-m", "scoresde_fast.cli", "sample", "digits-ve", *options]
        start = time.perf_counter()
        output = subprocess.check_output(command, text=True, cwd=folder)
        return time.perf_counter() - start, output.strip()


def main() -> None:
    """Measure, print and write overhead.json."""
    parser(__doc__).parse_args()
    imports = import_seconds()
    share = share_outside_network(steps=15)
    seconds, output = command_line_run()
    result = {
        "import_seconds": {name: round(value, 3) for name, value in imports.items()},
        "share_outside_network": round(share, 4),
        "digits_ve_64_images": {"nfe": 600, "seconds_with_start": round(seconds, 1), "said": output},
    }
    save(result, RESULTS / "overhead.json")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
