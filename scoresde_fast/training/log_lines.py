# SPDX-License-Identifier: Apache-2.0
"""Progress of a training run as lines, for a log file."""

from __future__ import annotations

import sys
from time import perf_counter

from tqdm import tqdm

from scoresde_fast.generate.pipeline import LINE_EVERY

FIRST_LINE_AFTER = 2.0
"""Seconds until the first line, by which the speed is roughly known."""


class LogLines:
    """One line on stderr after `FIRST_LINE_AFTER`, then one a minute, and one at the last step.

    Args:
        start: steps done before this process.
        total: steps of the run.
    """

    def __init__(self, start: int, total: int) -> None:
        self._start, self._total = start, total
        self._began = perf_counter()
        self._next = self._began + FIRST_LINE_AFTER
        self._losses: list[float] = []

    def add(self, step: int, loss: float) -> None:
        """Print a line if it is due: the step, the mean loss since the last line, the speed and the time left."""
        self._losses.append(loss)
        now = perf_counter()
        if now < self._next and step < self._total:
            return
        mean = sum(self._losses) / len(self._losses)
        rate = (step - self._start) / (now - self._began)
        left = tqdm.format_interval((self._total - step) / rate)
        print(
            f"step {step} of {self._total}, loss {mean:.4g}, {rate:.3g} steps/s, {left} left",
            file=sys.stderr,
            flush=True,
        )
        self._losses.clear()
        self._next = now + LINE_EVERY
