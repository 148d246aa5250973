# SPDX-License-Identifier: Apache-2.0
"""How far samples are from the data, and how much of that is chance.

Chance is seen between disjoint halves A, B of the samples: over many ways to halve them, half the root mean square of
q(A) - q(B) is the standard error of q of all samples, as halves vary twice as much in variance and are independent.
All lines are halved alike, so that the same holds for the difference of two lines that began at the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.bench.solvers.mixtures import exact_draws, quantiles
from scoresde_fast.data import digits
from scoresde_fast.data.digits import SIZE
from scoresde_fast.evaluation import Recogniser, extract_features, gaussian_distance
from scoresde_fast.sdes import Array

IMAGE_SHAPE = (3, SIZE, SIZE)
"""What digits-features takes."""
HALVINGS = 16
LEAST_SAMPLES = 4
"""The fewest whose halves have a covariance."""


@dataclass(frozen=True)
class Score:
    """``quality`` of samples, smaller is better; what parts the two halves of every halving; ``more`` to be told."""

    quality: float
    half_differences: list[float]
    more: dict[str, float] = field(default_factory=dict)


class Measure(Protocol):
    """Scores samples (N, C, H, W)."""

    name: ClassVar[str]
    floor_name: ClassVar[str]

    @property
    def floor(self) -> float:
        """What samples of the data itself have."""
        ...

    @property
    def chance(self) -> float:
        """Up to here nothing tells samples from the data; 0 where that is not known."""
        ...

    def __call__(self, samples: Tensor) -> Score: ...


class Wasserstein:
    """The 2-Wasserstein distance to the mixture: sorted samples against exact quantiles."""

    name: ClassVar[str] = "2-Wasserstein distance to the data"
    floor_name: ClassVar[str] = "exact draws"

    def __init__(self, samples: int) -> None:
        exact = [wasserstein(exact_draws(samples, seed)) for seed in range(16)]
        self.floor = float(np.mean(exact))
        self.chance = max(exact)

    def __call__(self, samples: Tensor) -> Score:
        values = samples.flatten().double().cpu().numpy()
        return halved(values, wasserstein)


class Frechet:
    """The Frechet distance to the digits in the features of digits-features; recognised digits and tints beside it."""

    name: ClassVar[str] = "Frechet distance to the data"
    floor_name: ClassVar[str] = "halves of the data"
    chance: ClassVar[float] = 0.0

    def __init__(self) -> None:
        data = extract_features(digits("all")[0] / 255)
        self._data = _gaussian(data)
        self._recogniser = Recogniser()
        halves = data[torch.from_numpy(np.random.default_rng(0).permutation(len(data)))].chunk(2)
        self.floor = gaussian_distance(*_gaussian(halves[0]), *_gaussian(halves[1]))

    def __call__(self, samples: Tensor) -> Score:
        found = halved(extract_features(samples), lambda part: gaussian_distance(*_gaussian(part), *self._data))
        report = self._recogniser.report(samples)
        more = {"recognised": report.recognised, "tint_matches": report.tint_matches}
        return Score(found.quality, found.half_differences, more)


def halved(values: Any, quality: Callable[[Any], float]) -> Score:
    """The quality of (N, ...) values and of their halves; an odd value is in no half."""
    half = len(values) // 2
    differences = []
    for seed in range(HALVINGS):
        order = np.random.default_rng(seed).permutation(len(values))
        differences.append(quality(values[order[:half]]) - quality(values[order[half : 2 * half]]))
    return Score(quality(values), differences)


def standard_error(half_differences: Sequence[float]) -> float:
    """Of the quality of all samples, by what parts their halves."""
    return float(np.sqrt(np.mean(np.square(half_differences))) / 2)


def paired_standard_error(half_differences: Sequence[float], others: Sequence[float]) -> float:
    """Of the difference of two lines' qualities."""
    return standard_error(np.subtract(half_differences, others).tolist())


def wasserstein(values: Array) -> float:
    """Of (N,) values to the mixture."""
    return float(np.sqrt(((np.sort(values) - _quantiles(len(values))) ** 2).mean()))


@lru_cache(maxsize=4)
def _quantiles(count: int) -> Array:
    return quantiles(count)


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    return features.mean(0), features.T.cov()
