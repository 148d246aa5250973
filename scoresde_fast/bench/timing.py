# SPDX-License-Identifier: Apache-2.0
"""Timers. Alternatives are interleaved in one process, their order rotates, and the median counts."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

COLD_BYTES = 512 * 2**20  # more than any L2 cache holds
WARM_UP = 3  # calls before a capture
SHORTEST = 5e-4  # seconds of a timed graph; its launch is negligible beside that


def rotation(make: Callable[[], tuple[Tensor, ...]], limit: int = 64) -> list[tuple[Tensor, ...]]:
    """Return up to ``limit`` sets of inputs from ``make``, together larger than any cache: each set is read cold."""
    sets = [make()]
    size = max(1, sum(tensor.numel() * tensor.element_size() for tensor in sets[0]))
    return sets + [make() for _ in range(min(limit, -(-COLD_BYTES // size)) - 1)]


def gpu_seconds(
    callables: dict[str, Callable[..., Any]], inputs: Sequence[tuple[Any, ...]] = ((),), rounds: int = 30
) -> dict[str, float]:
    """Return the median seconds of a call on the GPU, from CUDA events around the replay of a graph.

    Each graph calls its function with every one of ``inputs`` (see `rotation`), and repeats this until it lasts
    `SHORTEST` seconds. The host's cost of a launch is therefore not measured.

    Raises:
        RuntimeError: a function cannot be captured.
    """
    replays, calls = {}, {}
    for name, function in callables.items():
        graph, turns = _captured(function, inputs), 1
        once = replay_seconds({name: graph.replay}, 3)[name]
        if once < SHORTEST:
            turns = math.ceil(SHORTEST / once)
            graph = _captured(function, [*inputs] * turns)
        replays[name], calls[name] = graph.replay, turns * len(inputs)
    return {name: seconds / calls[name] for name, seconds in replay_seconds(replays, rounds).items()}


def replay_seconds(replays: dict[str, Callable[[], Any]], rounds: int = 30) -> dict[str, float]:
    """Return the median seconds of each graph's replay on the GPU, from CUDA events; the order rotates."""
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
    """Capture one graph that calls the function with each of the inputs; warm-up calls compile and allocate before."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            function(*inputs[0])
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for tensors in inputs:
            function(*tensors)
    return graph


def interleaved(
    callables: dict[str, Callable[[], Any]], rounds: int = 15, warm: int = 2, fill: float = 0.02
) -> dict[str, list[float]]:
    """Return [lower quartile, median, upper quartile] of the seconds of a call on the CPU.

    A round times every function once, in an order that rotates. One timing repeats the call for ``fill`` seconds.
    """
    repeats = {}
    for name, function in callables.items():
        _seconds(function, warm)
        repeats[name] = max(1, round(fill / _seconds(function, 1)))
    readings: dict[str, list[float]] = {name: [] for name in callables}
    for turn in range(rounds):
        for name in _rotated(callables, turn):
            readings[name].append(_seconds(callables[name], repeats[name]))
    return {name: quartiles(values) for name, values in readings.items()}


def quartiles(values: Sequence[float]) -> list[float]:
    """Return [lower quartile, median, upper quartile] of at least one value."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3


def wall_seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Return the wall-clock seconds until the run has finished, on the device too."""
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
    runs: dict[str, Callable[[], Any]], device: torch.device, seconds: float, least: int = 2, most: int = 15
) -> dict[str, list[float]]:
    """Return the readings of each run: at least ``least`` rounds, then up to ``most`` while they fit in ``seconds``.

    A run that takes most of ``seconds`` by itself is only in the first round. Every reading is taken between those of
    the other runs, because the load of the machine changes by the minute.
    """

    def read(name: str) -> float:
        return wall_seconds(runs[name], device)

    end = time.perf_counter() + seconds
    readings = {name: [read(name)] for name in runs}
    first = next(iter(runs))
    repeated = {name: taken for name, taken in readings.items() if taken[0] <= 0.6 * seconds or name == first}
    add_rounds(repeated, read, end, least, most)
    return readings


def add_rounds(
    readings: dict[str, list[float]], read: Callable[[str], float], end: float, least: int, most: int
) -> None:
    """Add rounds to ``readings``, which hold the first round; the order rotates.

    There are at least ``least`` rounds in all. Further ones follow, up to ``most``, while one as long as the last would
    end before ``end``, a time of `time.perf_counter`.
    """
    took = sum(taken[-1] for taken in readings.values())
    for turn in range(1, most):
        begin = time.perf_counter()
        if turn >= least and begin + took > end:
            break
        for name in _rotated(readings, turn):
            readings[name].append(read(name))
        took = time.perf_counter() - begin


def _rotated(names: Iterable[str], turn: int) -> list[str]:
    """Return the names in the order of one turn: each turn starts one name later."""
    names = list(names)
    start = turn % max(1, len(names))
    return names[start:] + names[:start]


def _seconds(function: Callable[..., Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / max(1, repeats)
