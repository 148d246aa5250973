# SPDX-License-Identifier: Apache-2.0
"""How time is measured: alternatives interleaved in one process, in an order that rotates, and medians."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

COLD_BYTES = 512 * 2**20  # more than any L2 cache holds
WARM_UP = 3  # calls before a capture
SHORTEST = 5e-4  # seconds of a graph that is timed, beside which its own launch does not count


def rotation(make: Callable[[], tuple[Tensor, ...]], limit: int = 64) -> list[tuple[Tensor, ...]]:
    """Up to ``limit`` sets of inputs by ``make``, so many that no cache holds all: each is cold at its next turn."""
    sets = [make()]
    size = max(1, sum(tensor.numel() * tensor.element_size() for tensor in sets[0]))
    return sets + [make() for _ in range(min(limit, -(-COLD_BYTES // size)) - 1)]


def gpu_seconds(
    callables: dict[str, Callable[..., Any]], inputs: Sequence[tuple[Any, ...]] = ((),), rounds: int = 30
) -> dict[str, float]:
    """Median seconds of a call on the GPU, by CUDA events around the replay of a graph.

    Each callable is captured, called with one of ``inputs`` after the other (see `rotation`) and as often as fills
    `SHORTEST` seconds, so that what a launch costs the host is not measured.

    Raises:
        RuntimeError: a callable cannot be captured.
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
    """Median seconds on the GPU of the replay of each graph, by CUDA events, in an order that rotates."""
    names = list(replays)
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in names}
    for replay in replays.values():
        replay()
    for index in range(rounds * len(names)):
        turn, place = divmod(index, len(names))
        name = names[(turn + place) % len(names)]
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        replays[name]()
        end.record()
        events[name].append((start, end))
    torch.cuda.synchronize()
    return {name: statistics.median(a.elapsed_time(b) for a, b in pairs) / 1e3 for name, pairs in events.items()}


def _captured(function: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> torch.cuda.CUDAGraph:
    """One graph of a call with each of the inputs; what compiles, measures or allocates has run before."""
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
    return {name: quartiles(values) for name, values in readings.items()}


def quartiles(values: Sequence[float]) -> list[float]:
    """[lower quartile, median, upper quartile] of at least one value."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3


def wall_seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds on the wall clock until the run has ended, on the device too."""
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def race(
    runs: dict[str, Callable[[], Any]], device: torch.device, seconds: float, least: int = 2, most: int = 15
) -> dict[str, list[float]]:
    """The readings of each run: ``least`` rounds in any case, then more, up to ``most``, while they fit ``seconds``.

    A run that takes most of ``seconds`` is in the first round alone.  A reading that was not taken between the others'
    is none: what else the machine does changes by the minute.
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
    """Add rounds to the first one, whose ``readings`` are there, in an order that rotates.

    There are ``least`` rounds in all in any case, then more, up to ``most``, while one like the last fits before the
    time ``end`` of `time.perf_counter`.
    """
    names = list(readings)
    took = sum(taken[-1] for taken in readings.values())
    for turn in range(1, most):
        begin = time.perf_counter()
        if turn >= least and begin + took > end:
            break
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            readings[name].append(read(name))
        took = time.perf_counter() - begin


def _seconds(function: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / max(1, repeats)
