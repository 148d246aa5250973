# SPDX-License-Identifier: Apache-2.0
"""Timers that interleave alternatives in one process, in an order that rotates, and the peak rates of a device."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

COLD_BYTES = 512 * 2**20  # larger than any L2 cache
WARM_UP_CALLS = 3  # before a capture
MIN_GRAPH_SECONDS = 5e-4  # makes the launch of a timed graph negligible


class Quartiles(NamedTuple):
    """The quartiles of readings."""

    lower: float
    median: float
    upper: float


def rotation(make: Callable[[], tuple[Tensor, ...]], limit: int = 64) -> list[tuple[Tensor, ...]]:
    """Return up to ``limit`` sets of inputs from ``make``, together larger than any cache, so that none is cached."""
    sets = [make()]
    size = max(1, sum(tensor.numel() * tensor.element_size() for tensor in sets[0]))
    return sets + [make() for _ in range(min(limit, -(-COLD_BYTES // size)) - 1)]


def gpu_seconds(
    callables: dict[str, Callable[..., Any]], inputs: Sequence[tuple[Any, ...]] = ((),), rounds: int = 30
) -> dict[str, float]:
    """Return the median GPU seconds of a call of each function, from CUDA events around the replay of a graph.

    Each graph calls its function with all ``inputs`` (see `rotation`), and repeats them until it lasts
    `MIN_GRAPH_SECONDS`, so that the launch overhead of the host is not measured.

    Raises:
        RuntimeError: a function cannot be captured.
    """
    replays, calls = {}, {}
    for name, function in callables.items():
        graph, repeats = _captured(function, inputs), 1
        once = replay_seconds({name: graph.replay}, 3)[name]
        if once < MIN_GRAPH_SECONDS:
            repeats = math.ceil(MIN_GRAPH_SECONDS / once)
            graph = _captured(function, [*inputs] * repeats)
        replays[name], calls[name] = graph.replay, repeats * len(inputs)
    return {name: seconds / calls[name] for name, seconds in replay_seconds(replays, rounds).items()}


def replay_seconds(replays: dict[str, Callable[[], Any]], rounds: int = 30) -> dict[str, float]:
    """Return the median GPU seconds of each replay, from CUDA events."""
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in replays}
    for replay in replays.values():
        replay()
    for turn in range(rounds):
        for name in _rotated(replays, turn):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            replays[name]()
            end.record()
            events[name].append((start, end))
    torch.cuda.synchronize()
    return {name: statistics.median(a.elapsed_time(b) for a, b in pairs) / 1e3 for name, pairs in events.items()}


def _captured(function: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> torch.cuda.CUDAGraph:
    """Return a graph that calls the function with each of the inputs, after warm-up calls."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_CALLS):
            function(*inputs[0])
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for tensors in inputs:
            function(*tensors)
    return graph


def interleaved(callables: dict[str, Callable[[], Any]], rounds: int = 15, fill: float = 0.02) -> dict[str, Quartiles]:
    """Return quartiles of the seconds of a call of each function on the CPU.

    After two warm-up calls, each function is timed once a round; a reading repeats the call for ``fill`` seconds.
    """
    repeats = {}
    for name, function in callables.items():
        _seconds(function, 2)
        repeats[name] = max(1, round(fill / _seconds(function, 1)))
    readings: dict[str, list[float]] = {name: [] for name in callables}
    for turn in range(rounds):
        for name in _rotated(callables, turn):
            readings[name].append(_seconds(callables[name], repeats[name]))
    return {name: quartiles(values) for name, values in readings.items()}


def quartiles(values: Sequence[float]) -> Quartiles:
    """Return the quartiles of at least one value."""
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0])
    return Quartiles(*statistics.quantiles(values, n=4, method="inclusive"))


def wall_seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Return the wall-clock seconds of a run, including its work on the device."""
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def race(
    runs: dict[str, Callable[[], Any]], device: torch.device, seconds: float, most: int = 15
) -> dict[str, list[float]]:
    """Return the readings of each run: at least 2 rounds, then up to ``most`` while they fit in ``seconds``.

    A run other than the first that takes over 60 % of ``seconds`` is timed in the first round only. The runs are
    interleaved because the load of the machine changes by the minute.
    """

    def read(name: str) -> float:
        return wall_seconds(runs[name], device)

    end = time.perf_counter() + seconds
    readings = {name: [read(name)] for name in runs}
    first = next(iter(runs))
    repeated = {name: values for name, values in readings.items() if values[0] <= 0.6 * seconds or name == first}
    add_rounds(repeated, read, end, least=2, most=most)
    return readings


def add_rounds(
    readings: dict[str, list[float]], read: Callable[[str], float], end: float, least: int, most: int
) -> None:
    """Append rounds to ``readings``, which contain the first round, in an order that rotates.

    There are at least ``least`` rounds in total. More follow, up to ``most``, while a round as long as the last would
    finish before ``end``, a time of `time.perf_counter`.
    """
    round_seconds = sum(values[-1] for values in readings.values())
    for turn in range(1, most):
        begin = time.perf_counter()
        if turn >= least and begin + round_seconds > end:
            break
        for name in _rotated(readings, turn):
            readings[name].append(read(name))
        round_seconds = time.perf_counter() - begin


def _rotated(names: Iterable[str], turn: int) -> list[str]:
    """Return the names rotated by ``turn`` positions."""
    names = list(names)
    start = turn % max(1, len(names))
    return names[start:] + names[:start]


def _seconds(function: Callable[..., Any], repeats: int) -> float:
    """Return the mean seconds of a call."""
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / max(1, repeats)


def peak_rates(device: torch.device) -> dict[str, Any]:
    """Measure the device's peaks: ``copy_gb_per_s``, and ``matmul_tflops`` in ``matmul_dtype``.

    The matrix product is in bfloat16 on a GPU, and in float32 on a CPU with all of PyTorch's threads.
    """
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    return {
        "copy_gb_per_s": copy_bandwidth(2.0 if on_gpu else 0.25, device),
        "matmul_tflops": matmul_peak((4096, 8192, 12288) if on_gpu else (1024, 2048), dtype, device),
        "matmul_dtype": str(dtype).removeprefix("torch."),
    }


def highest_rates(readings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the highest of several `peak_rates`; ``steady`` is False if the matmul peak varied by over 20 %."""
    highest = {key: max(reading[key] for reading in readings) for key in ("copy_gb_per_s", "matmul_tflops")}
    lowest = min(reading["matmul_tflops"] for reading in readings)
    steady = lowest >= 0.8 * highest["matmul_tflops"]
    return {**readings[0], **highest, "readings": len(readings), "steady": steady}


@cache
def bfloat16_is_fast(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 matrices at least as fast as float32 ones; measured on a CPU."""
    if device.type == "cuda":
        return True
    sizes = (512,)
    return matmul_peak(sizes, torch.bfloat16, device) >= matmul_peak(sizes, torch.float32, device)


def copy_bandwidth(gigabytes: float, device: torch.device | str) -> float:
    """Measure the GB/s of a copy on the device, reads plus writes."""
    source = torch.ones(int(gigabytes * 1e9) // 4, device=device)
    target = torch.empty_like(source)
    seconds = _median_seconds(lambda: target.copy_(source), rounds=5, on_gpu=source.is_cuda)
    return 2 * source.nbytes / seconds / 1e9


def matmul_peak(sizes: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> float:
    """Measure the highest TFLOP/s of a product of square random matrices over ``sizes``."""
    best = 0.0
    for size in sizes:
        a, b, out = (torch.randn(size, size, device=device).to(dtype) for _ in range(3))
        seconds = _median_seconds(partial(torch.mm, a, b, out=out), rounds=7, on_gpu=out.is_cuda)
        best = max(best, 2 * size**3 / seconds / 1e12)
    return best


def _median_seconds(function: Callable[[], Any], *, rounds: int, on_gpu: bool) -> float:
    """Return the median seconds of a call; ``rounds`` is the number of rounds on a CPU."""
    calls = {"call": function}
    return gpu_seconds(calls)["call"] if on_gpu else interleaved(calls, rounds)["call"].median
