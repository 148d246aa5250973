# SPDX-License-Identifier: Apache-2.0
"""A run as the host sees it: its progress and its health, followed without making the device wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde_fast.solvers import StepTable

OnStep = Callable[[int, int], None]

CHECK_EVERY = 16
"""Rows between two looks at whether the state is still finite."""
AHEAD = 8
"""Pieces of a run that the host may hand to a GPU before the first of them is done."""


class NonFiniteError(FloatingPointError):
    """The state stopped being a number; says at which row and time."""


class Watch:
    """Follows one run.

    A CPU has done what it was asked, so it is looked at directly.  A GPU works behind the host: ``sums`` is copied to
    pinned memory in its own stream, and read when the event behind the copy has passed, with more work queued by then.

    Args:
        sums: (1, rows) float32, the sum of the state after each row that is done; where conditions guide the run a
            second line holds that of their gradients.
        table: the run's rows.
        on_step: called with (evaluations done, evaluations in all) when they are done, on a GPU too.
    """

    def __init__(self, sums: Tensor, table: StepTable, on_step: OnStep | None) -> None:
        self._sums, self._table, self._on_step = sums, table, on_step
        self._rows = self._evaluations = self._copied = self._checked = 0
        self._queue: deque[tuple[torch.cuda.Event, int, int]] = deque()
        self._behind = sums.device.type == "cuda"
        self._seen = torch.empty(sums.shape, dtype=sums.dtype, pin_memory=True) if self._behind else sums

    def after(self, rows: int, evaluations: int) -> None:
        """Those were asked for, after all that came before.

        Raises:
            NonFiniteError: the state became NaN or infinite; names the row and its time.
        """
        self._rows += rows
        self._evaluations += evaluations
        look = self._rows - self._copied >= CHECK_EVERY or self._rows == len(self._table.rows)
        if look:
            self._copied = self._rows
        if not self._behind:
            self._passed(self._copied, self._evaluations)
            return
        if look:
            self._seen.copy_(self._sums, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._queue.append((event, self._copied, self._evaluations))
        while len(self._queue) > AHEAD:
            self._wait()

    def finish(self) -> None:
        """Wait for the end of the run.  The errors of `after`."""
        while self._queue:
            self._wait()

    def _wait(self) -> None:
        event, copied, evaluations = self._queue.popleft()
        event.synchronize()
        self._passed(copied, evaluations)

    def _passed(self, rows: int, evaluations: int) -> None:
        """``rows`` have their sums to look at, ``evaluations`` are done."""
        if rows > self._checked:
            finite = self._seen[:, self._checked : rows].isfinite()
            bad = (~finite.all(0)).nonzero()
            if len(bad):
                row = int(bad[0])
                raise NonFiniteError(self._sentence(self._checked + row, gradient=not finite[1:, row].all()))
            self._checked = rows
        if self._on_step is not None:
            self._on_step(evaluations, self._table.nfe)

    def _sentence(self, row: int, *, gradient: bool) -> str:
        what, cause = (
            ("gradients that guide the samples", "the network or a condition's gradient through it is NaN or infinity")
            if gradient
            else ("samples", "the network returned NaN or infinity, or the steps are too long")
        )
        advice = "lower the scale of the condition" if gradient else "take more steps"
        return (
            f"the {what} are not finite after step {row + 1} of {len(self._table.rows)}, "
            f"at t = {self._table.rows[row].t:.6g}: {cause}; check the weights or {advice}"
        )
