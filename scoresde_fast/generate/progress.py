# SPDX-License-Identifier: Apache-2.0
"""How far a run is: a bar on a terminal, a line a minute elsewhere, and the line that closes it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Protocol

from tqdm import tqdm

from scoresde_fast.generate.shards import Shard

LINE_EVERY = 60.0
"""Seconds between lines."""
SLOW_DISK = 0.05
"""Of the time that the device may wait for the disk before that is told."""
_FORMAT = "{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Writing(Protocol):
    """Where samples go: how long they were waited for, in seconds, and bytes written."""

    waited: float
    written: int


class Progress:
    """Of one process: images made, and how fast.

    Args:
        total: images that are asked for of this process.
        found: those of them that are there already.
        nfe: evaluations an image, where that is known before.
        shard: which share of the set they are.
        writing: where they go.
        enabled: whether to tell at all.
    """

    def __init__(self, total: int, found: int, nfe: int | None, shard: Shard, writing: Writing, enabled: bool) -> None:
        self._total, self._found, self._nfe, self._shard, self._writing = total, found, nfe, shard, writing
        self._on_terminal = sys.stderr.isatty()
        self._enabled = enabled
        shown = enabled and self._on_terminal and shard.index == 0
        self._tqdm = tqdm(total=total, initial=found, unit=" images", bar_format=_FORMAT, disable=not shown)
        self._made = 0
        self._start = self._told = perf_counter()

    def batch(self, images: int) -> Callable[[int, int], None]:
        """``on_step(done, of)`` for a batch that adds ``images`` images."""
        start = self._found + self._made

        def on_step(done: int, of: int) -> None:
            step = f"{done / of:.0%} of the way" if self._nfe is None else f"NFE {done}/{of}"
            self._tqdm.set_postfix_str(f"{step}{self._disk()}", False)
            self._tqdm.update(start + images * done / of - self._tqdm.n)
            self._line_if_due(images * done / of)

        return on_step

    def made(self, images: int) -> None:
        """So many more are on their way to the disk."""
        self._made += images
        self._tqdm.update(self._found + self._made - self._tqdm.n)
        self._line_if_due(0.0)

    def _line_if_due(self, under_way: float) -> None:
        if not self._enabled or self._on_terminal or perf_counter() - self._told < LINE_EVERY:
            return
        self._told = perf_counter()
        print(self._line(self._made + under_way), file=sys.stderr, flush=True)

    def _line(self, made: float) -> str:
        rate = made / (perf_counter() - self._start)
        left = (self._total - self._found - made) / rate if rate else 0.0
        share = "" if self._shard.count == 1 else f"share {self._shard}: "
        nfe = "" if self._nfe is None else f", {rate * self._nfe:.4g} NFE/s"
        return (
            f"{share}{self._found + made:.0f} of {self._total} images, {rate:.3g} images/s{nfe}, "
            f"{_duration(left)} left{self._disk()}"
        )

    def _disk(self) -> str:
        seconds = perf_counter() - self._start
        waiting = self._writing.waited / seconds
        slow = f", waiting for the disk {waiting:.0%} of the time" if waiting > SLOW_DISK else ""
        return f", disk {self._writing.written / seconds / 1e6:.2g} MB/s{slow}"

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._tqdm.close()


@dataclass(frozen=True)
class Report:
    """What a run did.

    Attributes:
        made, found: images made now, and found finished.
        nfe: evaluations an image, where that is known before.
        seconds: from the first batch to the last file.
        waited: of them, for the disk.
        missing: images that the set still lacks, which others make, or the next run.
        stopped: the run was asked to stop.
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
        missing = f", {self.missing} of the set are missing yet" if self.missing else ""
        if not self.made:
            return f"nothing {'done' if self.stopped else 'to do'}, {found}{missing} -> {self.look_at}"
        rate = f"{self.made / self.seconds:.2f} images/s"
        each = "" if self.nfe is None else f" ({self.nfe} NFE each)"
        made = f"{self.made} images{each} in {self.seconds:.1f} s, {rate}"
        slow = self.waited > SLOW_DISK * self.seconds
        disk = f", {self.waited:.1f} s of it waiting for the disk" if slow else ""
        return f"{made}{disk}{f', {found}' if self.found else ''}{missing} -> {self.look_at}"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
