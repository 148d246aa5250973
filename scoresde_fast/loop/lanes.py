# SPDX-License-Identifier: Apache-2.0
"""Lanes: parts of a batch run side by side on a CPU, each on one core.

A small network spends much of its time handing single operations to the cores and waiting for the last of them; whole
runs side by side wait for each other once.  Measured: 1.3 times the images a second on two cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from scoresde_fast.loop.watch import OnStep

Item = TypeVar("Item")
Result = TypeVar("Result")

LEAST = 8
"""Images that a lane needs to be worth it."""


class _Abandoned(Exception):
    """Another lane failed, or the user interrupted: nobody waits for this lane's result."""


def lane_count(images: int, device: torch.device) -> int:
    """How many lanes a batch is worth: one a core that PyTorch may use, on a CPU."""
    return max(1, min(torch.get_num_threads(), images // LEAST)) if device.type == "cpu" else 1


def in_lane(work: Callable[[], Result]) -> Result:
    """``work()`` as a lane would run it: in a thread of its own, on one core."""

    def alone() -> Result:
        torch.set_num_threads(1)
        return work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(alone).result()


def split(items: Sequence[Item], count: int) -> list[Sequence[Item]]:
    """At most ``count`` consecutive parts, as long as each other; the last may be shorter."""
    size = max(1, -(-len(items) // count))
    return [items[start : start + size] for start in range(0, len(items), size)]


def run_parts(
    run: Callable[[Sequence[Item], OnStep | None], Tensor],
    parts: Sequence[Sequence[Item]],
    lanes: int | None,
    on_step: OnStep | None,
) -> list[Tensor]:
    """``run(part, on_step)`` of every part, in their order.

    Each lane runs consecutive parts, one after the other; ``lanes`` None runs all in this thread, on all cores.
    ``on_step`` hears of the first lane only.  An exception in one lane, or in waiting for them, ends all of them.
    """
    abandoned = threading.Event()

    def run_lane(index: int, mine: Sequence[Sequence[Item]]) -> list[Tensor]:
        def step(done: int, total: int) -> None:
            if abandoned.is_set():
                raise _Abandoned
            if on_step is not None and index == 0:
                on_step(len(results) * total + done, len(mine) * total)

        if lanes is not None:
            torch.set_num_threads(1)  # for this thread alone; the caller keeps its own number
        results: list[Tensor] = []
        heard = lanes is not None or on_step is not None
        try:
            for part in mine:
                results.append(run(part, step if heard else None))
        except BaseException:
            abandoned.set()
            raise
        return results

    if lanes is None:
        return run_lane(0, parts)
    with ThreadPoolExecutor(lanes) as pool:
        futures = [pool.submit(run_lane, index, mine) for index, mine in enumerate(split(parts, lanes))]
        try:
            failures = [future.exception() for future in futures]
        except BaseException:  # Ctrl-C while waiting
            abandoned.set()
            raise
    cause = next((error for error in failures if error is not None and not isinstance(error, _Abandoned)), None)
    if cause is not None:
        raise cause
    return [result for future in futures for result in future.result()]
