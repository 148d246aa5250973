# SPDX-License-Identifier: Apache-2.0
"""Progress reporting and NaN detection for a run, without making the device wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde_fast.solvers import StepTable

OnStep = Callable[[int, int], None]
"""A progress callback, ``on_step(evaluations done, total evaluations)``."""

CHECK_EVERY = 16
"""Rows between two checks that the state is finite."""
MAX_QUEUED = 8
"""Maximum number of rows or patterns queued on a GPU; the host then waits for the first."""


class NonFiniteError(FloatingPointError):
    """The state became NaN or infinite; the message gives the row and its time."""


class RunMonitor:
    """Monitors one run.

    On a CPU, a queued row is already finished, so the sums are read directly.  A GPU runs asynchronously: ``sums`` is
    copied to pinned memory in the stream of the run, and read after an event that follows the copy.  Meanwhile the host
    queues more work.

    Args:
        sums: (1, rows) float32, sum of the state after each row; with guidance (2, rows): ``sums[1]`` holds the sums of
            the gradients.
        table: the rows of the run.
        on_step: called after evaluations are finished, not when they are queued.
        total: number of evaluations of each sample.
    """

    def __init__(self, sums: Tensor, table: StepTable, on_step: OnStep | None, total: int) -> None:
        self._sums, self._table, self._on_step, self._total = sums, table, on_step, total
        self._rows = self._evaluations = self._copied = self._checked = 0
        self._queue: deque[tuple[torch.cuda.Event, int, int]] = deque()
        self._asynchronous = sums.device.type == "cuda"
        self._host_sums = torch.empty(sums.shape, dtype=sums.dtype, pin_memory=True) if self._asynchronous else sums

    def queued(self, rows: int, evaluations: int) -> None:
        """Record that ``rows`` more rows with ``evaluations`` evaluations were queued.

        Raises:
            NonFiniteError: the state became NaN or infinite.
        """
        self._rows += rows
        self._evaluations += evaluations
        check_due = self._rows - self._copied >= CHECK_EVERY or self._rows == len(self._table.rows)
        if check_due:
            self._copied = self._rows
        if not self._asynchronous:
            self._report(self._copied, self._evaluations)
            return
        if check_due:
            self._host_sums.copy_(self._sums, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._queue.append((event, self._copied, self._evaluations))
        while len(self._queue) > MAX_QUEUED:
            self._wait()

    def finish(self) -> None:
        """Wait for the end of the run; the errors are those of `queued`."""
        while self._queue:
            self._wait()

    def _wait(self) -> None:
        event, copied, evaluations = self._queue.popleft()
        event.synchronize()
        self._report(copied, evaluations)

    def _report(self, rows: int, evaluations: int) -> None:
        """Check the sums of the first ``rows`` rows and report ``evaluations`` finished evaluations."""
        if rows > self._checked:
            finite = self._host_sums[:, self._checked : rows].isfinite()
            bad = (~finite.all(0)).nonzero()
            if len(bad):
                row = int(bad[0])
                raise NonFiniteError(self._message(self._checked + row, gradient=not finite[1:, row].all()))
            self._checked = rows
        if self._on_step is not None:
            self._on_step(evaluations, self._total)

    def _message(self, row: int, *, gradient: bool) -> str:
        if gradient:
            subject, advice = "guidance gradients", "lower the scale of the condition"
            cause = "the network or a condition's gradient through it is NaN or infinite"
        else:
            subject, advice = "samples", "take more steps"
            cause = "the network returned NaN or infinity, or the steps are too large"
        return (
            f"the {subject} are not finite after step {row + 1} of {len(self._table.rows)}, "
            f"at t = {self._table.rows[row].t:.6g}: {cause}; check the weights or {advice}"
        )
