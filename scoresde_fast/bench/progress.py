# SPDX-License-Identifier: Apache-2.0
"""Progress of the comparison of solvers: the time so far, and the time left, estimated from the measured cases."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np


class Progress:
    """The candidates that are done, and the time that the others are expected to take.

    Args:
        costs: expected network evaluations a sample of each candidate, by its key; 0 if it will not be measured.
        limit: time limit in seconds; None for none.
    """

    def __init__(self, costs: Mapping[str, float], limit: float | None) -> None:
        self._costs, self._limit, self._total = dict(costs), limit, len(costs)
        self._readings: list[tuple[float, float]] = []  # evaluations and seconds of each measured case
        self._started = time.perf_counter()

    def add(self, nfe: float, seconds: float) -> None:
        """Record a measured case."""
        self._readings.append((nfe, seconds))

    def finish(self, key: str) -> None:
        """Record that a candidate is done, measured or not."""
        self._costs.pop(key, None)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    def expected(self, nfe: float) -> float:
        """Return the expected seconds of a case; 0 before the first one is measured."""
        if not self._readings:
            return 0.0
        evaluations, seconds = np.transpose(self._readings)
        slope, fixed = np.polyfit(evaluations, seconds, 1) if np.ptp(evaluations) > 0 else (0.0, 0.0)
        if min(slope, fixed) < 0 or slope == 0:  # too few readings, or too noisy, to separate the two
            slope, fixed = seconds.sum() / evaluations.sum(), 0.0
        return float(fixed + slope * nfe)

    @property
    def left(self) -> float:
        """Expected seconds until all candidates are done."""
        left = sum(self.expected(cost) for cost in self._costs.values() if cost)
        return left if self._limit is None else max(0.0, min(left, self._limit - self.elapsed))

    def __str__(self) -> str:
        text = f"{self._total - len(self._costs)} of {self._total}, {duration(self.elapsed)}"
        return f"{text}, about {duration(self.left)} left" if self._readings and self._costs else text


def duration(seconds: float) -> str:
    """Return a duration as "90 s", "15 min" or "3.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
