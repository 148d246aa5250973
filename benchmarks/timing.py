# SPDX-License-Identifier: Apache-2.0
"""How this folder measures: alternatives interleaved in one process, medians, ceilings of the GPU in the same run."""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

COLD_BYTES = 512 * 2**20  # more than any L2 cache holds
SMI_FIELDS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "power.limit", "temperature.gpu")


def rotation(make: Callable[[], tuple[Tensor, ...]], limit: int = 64) -> list[tuple[Tensor, ...]]:
    """Up to ``limit`` sets of inputs by ``make``, so many that no cache holds all: each is cold at its next turn."""
    sets = [make()]
    size = max(1, sum(tensor.numel() * tensor.element_size() for tensor in sets[0]))
    return sets + [make() for _ in range(min(limit, -(-COLD_BYTES // size)) - 1)]


def gpu_seconds(
    callables: dict[str, Callable[..., Any]], inputs: Sequence[tuple[Any, ...]] = ((),), rounds: int = 30, warm: int = 5
) -> dict[str, float]:
    """Median seconds of a call on the GPU, by CUDA events.

    A round calls every callable once, in an order that rotates, each with the next of ``inputs`` (see `rotation`).  The
    calls queue up behind a sleeping GPU, so that what a launch costs the host is not in them.
    """
    names = list(callables)
    for index in range(warm):
        for function in callables.values():
            function(*inputs[index % len(inputs)])
    torch.cuda.synchronize()
    torch.cuda._sleep(20_000_000)
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in names}
    for index in range(rounds * len(names)):
        turn, place = divmod(index, len(names))
        name = names[(turn + place) % len(names)]
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        callables[name](*inputs[index % len(inputs)])
        end.record()
        events[name].append((start, end))
    torch.cuda.synchronize()
    return {name: statistics.median(a.elapsed_time(b) for a, b in pairs) / 1e3 for name, pairs in events.items()}


def copy_bandwidth(gigabytes: float = 2.0) -> float:
    """GB/s, read and write added, of a device copy of at least one GB."""
    source = torch.ones(int(max(gigabytes, 1.0) * 1e9) // 4, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / gpu_seconds({"copy": lambda: target.copy_(source)})["copy"] / 1e9


def matmul_peak(sizes: Sequence[int] = (4096, 8192, 12288), dtype: torch.dtype = torch.bfloat16) -> float:
    """The best TFLOP/s of a square matrix product over ``sizes``, of random normal numbers."""
    best = 0.0
    for size in sizes:
        a, b, out = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(3))
        seconds = gpu_seconds({"matmul": lambda a, b, out: torch.mm(a, b, out=out)}, [(a, b, out)])["matmul"]
        best = max(best, 2 * size**3 / seconds / 1e12)
    return best


def interleaved(
    callables: dict[str, Callable[[], Any]], rounds: int = 15, warm: int = 2, fill: float = 0.02
) -> dict[str, list[float]]:
    """[lower quartile, median, upper quartile] of the seconds of a call on the CPU.

    A round times every callable once, in an order that rotates, over as many calls as fill ``fill`` seconds.
    """
    names, repeats = list(callables), {}
    for name, function in callables.items():
        _seconds(function, warm)
        repeats[name] = max(1, round(fill / _seconds(function, 1)))
    readings: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds * len(names)):
        turn, place = divmod(index, len(names))
        name = names[(turn + place) % len(names)]
        readings[name].append(_seconds(callables[name], repeats[name]))
    return {name: statistics.quantiles(values, n=4, method="inclusive") for name, values in readings.items()}


def _seconds(function: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / max(1, repeats)


def device_info() -> dict[str, Any]:
    """The device, its clocks now and the versions, which stand beside every published figure."""
    triton = metadata.version("triton") if find_spec("triton") else None
    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "triton": triton}
    info: dict[str, Any] = {"platform": platform.platform(), "threads": torch.get_num_threads(), "versions": versions}
    if torch.cuda.is_available():
        versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        found = torch.cuda.get_device_properties(0)
        info |= {"gpu": found.name, "multiprocessors": found.multi_processor_count, "nvidia-smi": _smi()}
    return info


def _smi() -> dict[str, str] | str:
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"absent: {error}"
    return dict(zip(SMI_FIELDS, said.strip().split(", "), strict=False))
