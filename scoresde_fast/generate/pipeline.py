# SPDX-License-Identifier: Apache-2.0
"""Writing beside the sampler: copies, encoding and the disk in threads, the progress of it, and the final report."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor
from tqdm import tqdm

from scoresde_fast.generate.seeds import Shard
from scoresde_fast.generate.stores import Store

QUEUE_BYTES = 128 * 2**20
"""Bound of the samples on their way to the disk."""
RECORD_EVERY = 1.0
"""Seconds between two records: the samples of one record share one sync and one manifest."""
RECORD_SHARE = 0.05
"""Largest share of the time that syncs and manifests may take; on slow disks they come less often."""
LINE_EVERY = 60.0
"""Seconds between progress lines."""
SLOW_DISK = 0.05
"""Share of the time that the sampler waits for the disk from which on that is reported."""
BAR_FORMAT = "{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


@dataclass
class WriteStats:
    """Seconds that the sampler waited for the disk or the encoders, and bytes of files written."""

    waited: float = 0.0
    size: int = 0


class Pipeline:
    """Writes batches of samples while the next ones are computed; on leaving the block all are on the disk.

    Args:
        store: where the samples go.
        rounding: how [0, 1] becomes 8 bits, in formats of 8 bits.
        record: called with seeds whose samples are synced, in a separate thread.
        workers: threads that encode and write; None: one per core, up to 8.
        queue_bytes: bound of the samples that wait; a larger batch goes alone.

    Attributes:
        stats: what was written so far.
    """

    def __init__(
        self,
        store: Store,
        rounding: str,
        record: Callable[[list[int]], None],
        *,
        workers: int | None = None,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._store, self._rounding, self._record = store, rounding, record
        self._queue_bytes = queue_bytes
        self._workers = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1), "write")
        self._recorder = ThreadPoolExecutor(1, "record")
        self._lock = threading.Lock()
        self._queue: deque[tuple[Future[int], int]] = deque()
        self._unrecorded: list[int] = []
        self._recording: Future[None] | None = None
        self._recorded_at, self._recording_took = perf_counter(), 0.0
        self.stats = WriteStats()

    def put(self, seeds: list[int], images: Tensor) -> None:
        """Take a batch (B, C, H, W) in [0, 1], on any device, as soon as there is room; it must not change afterwards.

        Raises:
            OSError: an earlier batch could not be written or recorded.
        """
        arrived = None
        if images.is_cuda:  # rounded there, so that a quarter of the bytes is copied
            samples = self._store.to_samples(images, self._rounding)
            self._make_room(samples.nbytes)
            images = torch.empty(samples.shape, dtype=samples.dtype, pin_memory=True)
            images.copy_(samples, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        else:
            self._make_room(images.nbytes)
        self._queue.append((self._workers.submit(self._write, list(seeds), images, arrived), images.nbytes))
        self._record_if_due()

    def _make_room(self, size: int) -> None:
        self._take_finished()
        start = perf_counter()
        while self._queue and size + sum(waiting for _, waiting in self._queue) > self._queue_bytes:
            wait([self._queue[0][0]])
            self._take_finished()
        self.stats.waited += perf_counter() - start

    def _take_finished(self) -> None:
        while self._queue and self._queue[0][0].done():
            self.stats.size += self._queue.popleft()[0].result()

    def _write(self, seeds: list[int], images: Tensor, arrived: torch.cuda.Event | None) -> int:
        if arrived is None:
            images = self._store.to_samples(images, self._rounding)
        else:
            arrived.synchronize()
        size = self._store.write(seeds, images.numpy())
        with self._lock:
            self._unrecorded += seeds
        return size

    def _record_if_due(self) -> None:
        if self._recording is not None:
            if not self._recording.done():
                return
            self._recording.result()
            self._recording = None
        if perf_counter() - self._recorded_at > max(RECORD_EVERY, self._recording_took / RECORD_SHARE):
            self._recording = self._recorder.submit(self._sync_and_record)

    def _sync_and_record(self) -> None:
        start = perf_counter()
        with self._lock:
            seeds, self._unrecorded = self._unrecorded, []
        if seeds:
            self._store.sync()
            self._record(seeds)
        self._recorded_at = perf_counter()
        self._recording_took = self._recorded_at - start

    def close(self) -> None:
        """Wait until every batch is on the disk and recorded.

        Raises:
            OSError: a batch could not be written or recorded; all others are.
        """
        error: OSError | None = None
        try:
            for future, _ in self._queue:
                try:
                    self.stats.size += future.result()
                except OSError as failed:
                    error = error or failed
            if self._recording is not None:
                self._recording.result()
            self._sync_and_record()
        finally:
            self._queue.clear()
            self._workers.shutdown()
            self._recorder.shutdown()
        if error is not None:
            raise error

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        # An error of the block is raised rather than one of the disk; finished samples are recorded all the same.
        with nullcontext() if error is None else suppress(OSError):
            self.close()


class Progress:
    """Progress of one process: a bar on a terminal, otherwise one line a minute on stderr.

    Args:
        total: images requested of this process.
        found: images of them that exist already.
        nfe: network evaluations per image, where known in advance.
        shard: the shard of this process; only the first one shows a bar.
        stats: what the process writes, updated by the caller.
        enabled: False shows nothing.
    """

    def __init__(self, total: int, found: int, nfe: int | None, shard: Shard, stats: WriteStats, enabled: bool) -> None:
        self._total, self._found, self._nfe, self._shard, self._stats = total, found, nfe, shard, stats
        self._on_terminal = sys.stderr.isatty()
        self._enabled = enabled
        shown = enabled and self._on_terminal and shard.index == 0
        self._bar = tqdm(total=total, initial=found, unit=" images", bar_format=BAR_FORMAT, disable=not shown)
        self._made = 0
        self._start = self._last_line = perf_counter()

    def on_step(self, images: int) -> Callable[[int, int], None]:
        """Return ``on_step(done, of)`` for a batch that adds ``images`` images."""
        start = self._found + self._made

        def on_step(done: int, of: int) -> None:
            step = f"{done / of:.0%} of the way" if self._nfe is None else f"NFE {done}/{of}"
            self._bar.set_postfix_str(f"{step}{self._disk()}", False)
            self._bar.update(start + images * done / of - self._bar.n)
            self._line_if_due(images * done / of)

        return on_step

    def add(self, images: int) -> None:
        """Record that ``images`` more images are computed."""
        self._made += images
        self._bar.update(self._found + self._made - self._bar.n)
        self._line_if_due(0.0)

    def _line_if_due(self, partial: float) -> None:
        if not self._enabled or self._on_terminal or perf_counter() - self._last_line < LINE_EVERY:
            return
        self._last_line = perf_counter()
        made = self._made + partial
        rate = made / (perf_counter() - self._start)
        minutes = (self._total - self._found - made) / rate / 60 if rate else 0.0
        left = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
        shard = "" if self._shard.count == 1 else f"shard {self._shard}: "
        nfe = "" if self._nfe is None else f", {rate * self._nfe:.4g} NFE/s"
        line = f"{shard}{self._found + made:.0f} of {self._total} images, {rate:.3g} images/s{nfe}, {left} left"
        print(line + self._disk(), file=sys.stderr, flush=True)

    def _disk(self) -> str:
        seconds = perf_counter() - self._start
        waiting = self._stats.waited / seconds
        slow = f", waiting for the disk {waiting:.0%} of the time" if waiting > SLOW_DISK else ""
        return f", disk {self._stats.size / seconds / 1e6:.2g} MB/s{slow}"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


@dataclass(frozen=True)
class Report:
    """Outcome of a run; ``str`` of it is one sentence.

    Attributes:
        made, found: images computed, and images that existed.
        nfe: network evaluations per image, where known in advance.
        seconds: from the first batch to the last file.
        waited: seconds of them that the sampler waited for the disk.
        missing: images that the set still lacks, for other processes or the next run.
        stopped: whether the run was asked to stop.
        look_at: the file to look at.
    """

    made: int
    found: int
    nfe: int | None
    seconds: float
    waited: float
    missing: int
    stopped: bool
    look_at: Path

    def __str__(self) -> str:
        found = f"{self.found} images were there already"
        missing = f", {self.missing} of the set are still missing" if self.missing else ""
        if not self.made:
            return f"nothing {'done' if self.stopped else 'to do'}, {found}{missing} -> {self.look_at}"
        rate = f"{self.made / self.seconds:.2f} images/s"
        each = "" if self.nfe is None else f" ({self.nfe} NFE each)"
        made = f"{self.made} images{each} in {self.seconds:.1f} s, {rate}"
        slow = self.waited > SLOW_DISK * self.seconds
        disk = f", {self.waited:.1f} s of it waiting for the disk" if slow else ""
        return f"{made}{disk}{f', {found}' if self.found else ''}{missing} -> {self.look_at}"
