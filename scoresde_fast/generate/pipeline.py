# SPDX-License-Identifier: Apache-2.0
"""`Pipeline`, which writes samples while the next ones are computed, `Progress` and the final `Report`."""

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

from scoresde_fast.generate.digests import digest
from scoresde_fast.generate.seeds import Shard
from scoresde_fast.generate.stores import Store

QUEUE_BYTES = 128 * 2**20
"""Limit of the samples that wait to be written; a larger batch waits until the queue is empty."""
RECORD_EVERY = 1.0
"""Seconds between records; a record is one sync and one update of the manifest."""
RECORD_SHARE = 0.05
"""Maximum fraction of the time spent on records; on slow disks the interval between them grows."""
FIRST_LINE, LINE_EVERY = 5.0, 60.0
"""Seconds until the first progress line, and between later ones."""
SLOW_DISK = 0.05
"""Waiting for the disk is reported if it takes more than this fraction of the time."""
BAR_FORMAT = "{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


@dataclass
class WriteStats:
    """Seconds that the sampler waited for encoding and writing, and bytes written to files."""

    waited: float = 0.0
    size: int = 0


class Pipeline:
    """Threads that encode and write samples while the next ones are computed; leaving ``with`` waits for the disk.

    Args:
        store: writes the samples.
        rounding: rounding to 8 bits, for 8-bit formats.
        record: called with the digest of each synced sample by seed, in a separate thread.

    Attributes:
        stats: totals so far.
    """

    def __init__(self, store: Store, rounding: str, record: Callable[[dict[int, str]], None]) -> None:
        self._store, self._rounding, self._record = store, rounding, record
        self._workers = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "write")
        self._recorder = ThreadPoolExecutor(1, "record")
        self._lock = threading.Lock()
        self._queue: deque[tuple[Future[int], int]] = deque()
        self._unrecorded: dict[int, str] = {}
        self._recording: Future[None] | None = None
        self._recorded_at, self._recording_seconds = perf_counter(), 0.0
        self.stats = WriteStats()

    def put(self, seeds: list[int], images: Tensor) -> None:
        """Wait for room, then queue a batch (B, C, H, W) in [0, 1] on any device; the caller must not change the batch.

        Raises:
            OSError: an earlier batch could not be written or recorded.
        """
        copied = None
        if images.is_cuda:  # round on the GPU, so that only a quarter of the bytes is copied
            samples = self._store.to_samples(images, self._rounding)
            self._make_room(samples.nbytes)
            images = torch.empty(samples.shape, dtype=samples.dtype, pin_memory=True)
            images.copy_(samples, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        else:
            self._make_room(images.nbytes)
        self._queue.append((self._workers.submit(self._write, list(seeds), images, copied), images.nbytes))
        self._record_if_due()

    def _make_room(self, size: int) -> None:
        """Wait until ``size`` more bytes fit into the queue."""
        self._remove_finished()
        start = perf_counter()
        while self._queue and size + sum(queued for _, queued in self._queue) > QUEUE_BYTES:
            wait([self._queue[0][0]])
            self._remove_finished()
        self.stats.waited += perf_counter() - start

    def _remove_finished(self) -> None:
        while self._queue and self._queue[0][0].done():
            self.stats.size += self._queue.popleft()[0].result()

    def _write(self, seeds: list[int], images: Tensor, copied: torch.cuda.Event | None) -> int:
        if copied is None:
            images = self._store.to_samples(images, self._rounding)
        else:
            copied.synchronize()
        encoded = self._store.encode(images.numpy())
        digests = dict(zip(seeds, map(digest, encoded), strict=True))
        size = self._store.write(seeds, encoded)
        with self._lock:
            self._unrecorded |= digests
        return size

    def _record_if_due(self) -> None:
        if self._recording is not None:
            if not self._recording.done():
                return
            self._recording.result()
            self._recording = None
        if perf_counter() - self._recorded_at > max(RECORD_EVERY, self._recording_seconds / RECORD_SHARE):
            self._recording = self._recorder.submit(self._sync_and_record)

    def _sync_and_record(self) -> None:
        start = perf_counter()
        with self._lock:
            digests, self._unrecorded = self._unrecorded, {}
        if digests:
            self._store.sync()
            self._record(digests)
        self._recorded_at = perf_counter()
        self._recording_seconds = self._recorded_at - start

    def close(self) -> None:
        """Wait until every batch is on disk and recorded.

        Raises:
            OSError: a batch could not be written or recorded; all other batches are recorded.
        """
        first_error: OSError | None = None
        try:
            for future, _ in self._queue:
                try:
                    self.stats.size += future.result()
                except OSError as error:
                    first_error = first_error or error
            if self._recording is not None:
                self._recording.result()
            self._sync_and_record()
        finally:
            self._queue.clear()
            self._workers.shutdown()
            self._recorder.shutdown()
        if first_error is not None:
            raise first_error

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        # An error of the block takes precedence over one of the disk; finished samples are recorded in both cases.
        with nullcontext() if error is None else suppress(OSError):
            self.close()


class Progress:
    """Progress of one process: a bar on a terminal; otherwise a line on stderr after five seconds, then one a minute.

    Args:
        total: number of images requested from this process.
        existing: number of the requested images that existed before the run.
        nfe: network evaluations per image, if known in advance.
        shard: the shard of this process; only the process of the first shard shows a bar, the others print lines.
        stats: write statistics, updated by the caller.
        enabled: False shows nothing.
    """

    def __init__(
        self, total: int, existing: int, nfe: int | None, shard: Shard, stats: WriteStats, *, enabled: bool = True
    ) -> None:
        self._total, self._existing, self._nfe, self._shard, self._stats = total, existing, nfe, shard, stats
        show_bar = enabled and sys.stderr.isatty() and shard.index == 0
        self._prints_lines = enabled and not show_bar
        self._bar = tqdm(total=total, initial=existing, unit=" images", bar_format=BAR_FORMAT, disable=not show_bar)
        self._computed = 0
        self._start = perf_counter()
        self._next_line = self._start + FIRST_LINE

    def on_step(self, images: int) -> Callable[[int, int], None]:
        """Return the callback ``on_step(done, total)`` for a batch that adds ``images`` images."""
        start = self._existing + self._computed

        def on_step(done: int, total: int) -> None:
            step = f"{done / total:.0%} of the way" if self._nfe is None else f"NFE {done}/{total}"
            self._bar.set_postfix_str(f"{step}{self._disk_text()}", refresh=False)
            self._bar.update(start + images * done / total - self._bar.n)
            self._print_if_due(images * done / total)

        return on_step

    def add(self, images: int) -> None:
        """Record that ``images`` more images are computed."""
        self._computed += images
        self._bar.update(self._existing + self._computed - self._bar.n)
        self._print_if_due(0.0)

    def _print_if_due(self, partial: float) -> None:
        """Print a line if it is time; ``partial`` is the finished part of the current batch, in images."""
        if not self._prints_lines or perf_counter() < self._next_line:
            return
        self._next_line = perf_counter() + LINE_EVERY
        computed = self._computed + partial
        rate = computed / (perf_counter() - self._start)
        minutes = (self._total - self._existing - computed) / rate / 60 if rate else 0.0
        left = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
        shard = "" if self._shard.count == 1 else f"shard {self._shard}: "
        nfe = "" if self._nfe is None else f", {rate * self._nfe:.4g} NFE/s"
        text = f"{shard}{self._existing + computed:.0f} of {self._total} images, {rate:.3g} images/s{nfe}, {left} left"
        print(text + self._disk_text(), file=sys.stderr, flush=True)

    def _disk_text(self) -> str:
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
    """Outcome of a run; ``str`` gives one sentence.

    Attributes:
        made, found: numbers of images that this run computed, and that existed before the run.
        nfe: network evaluations per image, if known in advance.
        look_at: the overview picture, or the set of images if there is no picture.
        seconds: from the first batch to the last file.
        waited: seconds that the sampler waited for the disk.
        missing: number of missing images, which other processes or the next run compute.
        stopped: whether the caller's ``stop`` ended the run early.
        implementation: how the network ran.
    """

    made: int
    found: int
    nfe: int | None
    look_at: Path
    seconds: float = 0.0
    waited: float = 0.0
    missing: int = 0
    stopped: bool = False
    implementation: str = ""

    def __str__(self) -> str:
        existing = f", {self.found} images already existed" if self.found or not self.made else ""
        missing = f", {self.missing} of the set are still missing" if self.missing else ""
        if not self.made:
            return f"nothing {'done' if self.stopped else 'to do'}{existing}{missing} -> {self.look_at}"
        rate = f"{self.made / self.seconds:.2f} images/s"
        nfe = "" if self.nfe is None else f" ({self.nfe} NFE each)"
        how = f" ({self.implementation})" if self.implementation else ""
        computed = f"{self.made} images{nfe} in {self.seconds:.1f} s, {rate}{how}"
        slow = self.waited > SLOW_DISK * self.seconds
        disk = f", {self.waited:.1f} s of it waiting for the disk" if slow else ""
        return f"{computed}{disk}{existing}{missing} -> {self.look_at}"
