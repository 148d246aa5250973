# SPDX-License-Identifier: Apache-2.0
"""Copies, encoding and the disk beside the device: samples go in batch by batch, and come out counted."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from time import perf_counter
from types import TracebackType

import torch
from torch import Tensor

from scoresde_fast.generate.stores import Store

QUEUE_BYTES = 128 * 2**20
"""Of samples on their way to the disk, at most."""
COUNT_EVERY = 1.0
"""Seconds between two counts: what is written meanwhile shares one sync and one description."""
COUNT_SHARE = 0.05
"""Of the time, at most, that syncs and descriptions take; of slow disks they come less often."""


class Pipeline:
    """Writes batches of samples beside whoever makes them; to be closed, by which all is on the disk and counted.

    Args:
        store: where they go.
        rounding: how [0, 1] becomes 8 bits, where it does.
        count: is told of seeds when their samples are certain to stay, in a thread of its own.
        workers: threads that encode and write; None: as many as cores, up to 8.
        queue_bytes: samples that wait, at most; a larger batch goes alone.

    Attributes:
        waited: seconds that `put` waited for room: the disk's fault, or the encoders'.
        written: bytes of files.
    """

    def __init__(
        self,
        store: Store,
        rounding: str,
        count: Callable[[list[int]], None],
        *,
        workers: int | None = None,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._store, self._rounding, self._count = store, rounding, count
        self._queue_bytes = queue_bytes
        self._workers = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1), "write")
        self._counter = ThreadPoolExecutor(1, "count")
        self._lock = threading.Lock()
        self._under_way: deque[tuple[Future[int], int]] = deque()
        self._finished: list[int] = []
        self._counting: Future[None] | None = None
        self._counted_at, self._counting_took = perf_counter(), 0.0
        self.waited = 0.0
        self.written = 0

    def put(self, seeds: list[int], images: Tensor) -> None:
        """Take a batch (B, C, H, W) in [0, 1], on any device, as soon as there is room; it must not change any more.

        Raises:
            OSError: an earlier batch could not be written, or counted.
        """
        arrived = None
        if images.is_cuda:  # rounded there, so that the copy has a quarter of the bytes
            samples = self._store.to_samples(images, self._rounding)
            self._make_room(samples.nbytes)
            images = torch.empty(samples.shape, dtype=samples.dtype, pin_memory=True)
            images.copy_(samples, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        else:
            self._make_room(images.nbytes)
        self._under_way.append((self._workers.submit(self._write, list(seeds), images, arrived), images.nbytes))
        self._count_if_due()

    def _make_room(self, size: int) -> None:
        self._take_finished()
        start = perf_counter()
        while self._under_way and size + sum(waiting for _, waiting in self._under_way) > self._queue_bytes:
            wait([self._under_way[0][0]])
            self._take_finished()
        self.waited += perf_counter() - start

    def _take_finished(self) -> None:
        """Forget the batches that are written; raises what one of them raised."""
        while self._under_way and self._under_way[0][0].done():
            self.written += self._under_way.popleft()[0].result()

    def _write(self, seeds: list[int], images: Tensor, arrived: torch.cuda.Event | None) -> int:
        if arrived is None:
            images = self._store.to_samples(images, self._rounding)
        else:
            arrived.synchronize()
        written = self._store.write(seeds, images.numpy())
        with self._lock:
            self._finished += seeds
        return written

    def _count_if_due(self) -> None:
        if self._counting is not None:
            if not self._counting.done():
                return
            self._counting.result()
            self._counting = None
        if perf_counter() - self._counted_at > max(COUNT_EVERY, self._counting_took / COUNT_SHARE):
            self._counting = self._counter.submit(self._count_finished)

    def _count_finished(self) -> None:
        start = perf_counter()
        with self._lock:
            seeds, self._finished = self._finished, []
        if seeds:
            self._store.sync()
            self._count(seeds)
        self._counted_at = perf_counter()
        self._counting_took = self._counted_at - start

    def close(self) -> None:
        """Wait until all that was put is on the disk and counted.

        Raises:
            OSError: something could not be written, or counted; everything else is.
        """
        error: OSError | None = None
        try:
            for future, _ in self._under_way:
                try:
                    self.written += future.result()
                except OSError as failed:
                    error = error or failed
            if self._counting is not None:
                self._counting.result()
            self._count_finished()
        finally:
            self._under_way.clear()
            self._workers.shutdown()
            self._counter.shutdown()
        if error is not None:
            raise error

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What is written is kept, and counted; an error that is on its way stays the one to be told.
        with nullcontext() if error is None else suppress(OSError):
            self.close()
