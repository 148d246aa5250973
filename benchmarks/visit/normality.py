# SPDX-License-Identifier: Apache-2.0
"""A test of samples for standard normality: moments, Kolmogorov-Smirnov distance and tail counts.

Samples are added in batches and not stored.  Moments and tail counts are in units of their standard error, so that a
limit of about five applies to any number of samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

TAILS = (3.0, 4.0, 4.5, 5.0, 5.5)
BINS = 1 << 14
RANGE = 6.0


@dataclass
class NormalCheck:
    """Accumulates power sums, a histogram, and counts of |z| above each of `TAILS`."""

    count: int = 0
    powers: list[float] = field(default_factory=lambda: [0.0] * 6)
    histogram: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))
    tails: list[int] = field(default_factory=lambda: [0] * len(TAILS))

    def add(self, z: Tensor) -> None:
        """Add the samples ``z``, float32 on any device."""
        self.count += z.numel()
        wide = z.flatten().double()
        power = torch.ones_like(wide)
        for k in range(6):
            power *= wide
            self.powers[k] += power.sum().item()
        bins = ((z.flatten() + RANGE) * (BINS / (2 * RANGE))).long().clamp_(0, BINS - 1)
        self.histogram += torch.bincount(bins, minlength=BINS).cpu()
        magnitude = z.abs()
        for i, tail in enumerate(TAILS):
            self.tails[i] += int((magnitude > tail).sum())

    def deviations(self) -> dict[str, float]:
        """Return the differences of moments and tail counts from their expectations, in standard errors."""
        result = {}
        for k, total in enumerate(self.powers, start=1):
            expected, square = _moment(k), _moment(2 * k)
            result[f"moment {k}"] = (total / self.count - expected) / math.sqrt((square - expected**2) / self.count)
        for tail, count in zip(TAILS, self.tails, strict=True):
            expected = self.count * math.erfc(tail / math.sqrt(2))
            result[f"|z| > {tail}"] = (count - expected) / math.sqrt(expected)
        return result

    def kolmogorov_smirnov(self) -> float:
        """Return sqrt(n) sup |F_n - F| at the bin edges; it exceeds 1.95 with probability 0.001."""
        edges = torch.linspace(-RANGE, RANGE, BINS + 1, dtype=torch.float64)[1:-1]
        empirical = self.histogram.cumsum(0)[:-1] / self.count
        return math.sqrt(self.count) * (empirical - torch.special.ndtr(edges)).abs().max().item()


def _moment(k: int) -> float:
    """Return E z^k of a standard normal: (k - 1)!! for even k, else 0."""
    return 0.0 if k % 2 else float(math.prod(range(1, k, 2)))
