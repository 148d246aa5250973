# SPDX-License-Identifier: Apache-2.0
"""CPU workers: threads that run parts of a batch in parallel, each on one core.

A small network loses much time when each of its operations is distributed over the cores and waits for the slowest.
Workers synchronise only once per batch; on two cores this gave 1.3 times the images per second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from scoresde_fast.loop.run_monitor import OnStep

Item = TypeVar("Item")
Result = TypeVar("Result")

MIN_IMAGES = 8
"""Minimum number of images per worker."""


class _Cancelled(Exception):
    """The run was cancelled, because another worker failed or the user interrupted it."""


def in_worker(work: Callable[[], Result]) -> Result:
    """Return ``work()``, called in a separate thread that uses one core."""

    def on_one_core() -> Result:
        torch.set_num_threads(1)
        return work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(on_one_core).result()


def split(items: Sequence[Item], count: int) -> list[Sequence[Item]]:
    """Split items into at most ``count`` consecutive parts of equal length; the last part may be shorter."""
    size = max(1, -(-len(items) // count))
    return [items[start : start + size] for start in range(0, len(items), size)]


def run_parts(
    run: Callable[[Sequence[Item], OnStep | None], Tensor],
    parts: Sequence[Sequence[Item]],
    workers: int | None,
    on_step: OnStep | None,
) -> list[Tensor]:
    """Return ``run(part, on_step)`` for each part, in the order of the parts.

    Each worker runs consecutive parts one after another.  With ``workers=None`` the calling thread runs all parts, on
    all cores.  ``on_step`` reports the first worker only.  An exception in a worker, or an interrupt, stops all.
    """
    cancelled = threading.Event()

    def run_worker(index: int, own_parts: Sequence[Sequence[Item]]) -> list[Tensor]:
        def step(done: int, total: int) -> None:
            if cancelled.is_set():
                raise _Cancelled
            if on_step is not None and index == 0:
                on_step(len(results) * total + done, len(own_parts) * total)

        if workers is not None:
            torch.set_num_threads(1)  # for this thread only
        results: list[Tensor] = []
        callback = None if workers is None and on_step is None else step
        try:
            for part in own_parts:
                results.append(run(part, callback))
        except BaseException:
            cancelled.set()
            raise
        return results

    if workers is None:
        return run_worker(0, parts)
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(run_worker, index, own) for index, own in enumerate(split(parts, workers))]
        try:
            failures = [future.exception() for future in futures]
        except BaseException:  # Ctrl-C while waiting
            cancelled.set()
            raise
    cause = next((error for error in failures if error is not None and not isinstance(error, _Cancelled)), None)
    if cause is not None:
        raise cause
    return [result for future in futures for result in future.result()]
