# SPDX-License-Identifier: Apache-2.0
"""Measures of samples: their distance to the data, its standard error, and the error to the converged flow.

The standard error comes from random disjoint halves A, B of the samples. The quality q of a half has twice the variance
of the quality of all samples, and A and B are independent, so the standard error is half the root mean square of
q(A) - q(B). All candidates are halved in the same way, so the standard error of the
difference of two candidates with the same seeds follows likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.data import digits
from scoresde_fast.data.built_in import DIGITS_SIZE
from scoresde_fast.evaluation import Extractor, Recogniser, extract_features, gaussian_distance
from scoresde_fast.evaluation.frechet import FrechetDistance
from scoresde_fast.evaluation.reference import Reference
from scoresde_fast.generate.pixels import to_uint8
from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import CLDSDE, EDM, SDE, VESDE, VPSDE, Array, Betas, RectifiedFlow, SubVPSDE
from scoresde_fast.solvers import make_grid

IMAGE_SHAPE = (3, DIGITS_SIZE, DIGITS_SIZE)
"""The image shape of digits-features."""
HALVES = "halves of the data"
HALVINGS = 16
MIN_SAMPLES = 4
"""Smallest number of samples whose halves have a covariance."""


@dataclass(frozen=True)
class Score:
    """The ``quality`` of samples (smaller is better), q(A) - q(B) for each halving, and further measures."""

    quality: float
    half_differences: list[float]
    more: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """A distance of samples to the data.

    Attributes:
        name: name of the distance.
        floor_name, floor: what the floor is, and its value: the distance of samples from the data distribution itself;
            None if it is unknown.
        chance: the largest distance that exact samples have by chance; 0 if it is unknown.
        score: returns the score of samples (N, C, H, W).
    """

    name: str
    floor_name: str
    floor: float | None
    chance: float
    score: Callable[[Tensor], Score]


def wasserstein_measure(samples: int) -> Measure:
    """Return the 2-Wasserstein distance to the mixture: sorted samples against exact quantiles."""
    distances = [wasserstein(exact_draws(samples, seed)) for seed in range(16)]

    def score(samples: Tensor) -> Score:
        return halved(samples.flatten().double().cpu().numpy(), wasserstein)

    name = "2-Wasserstein distance to the data"
    return Measure(name, "exact draws", float(np.mean(distances)), max(distances), score)


def digits_measure() -> Measure:
    """Return the Frechet distance to the digits, in the features of the network digits-features.

    Its scores also have the shares of recognised digits and tints.
    """
    features = extract_features(digits("all")[0] / 255)
    data, recogniser = _gaussian(features), Recogniser()
    halves = features[torch.from_numpy(np.random.default_rng(0).permutation(len(features)))].chunk(2)
    floor = gaussian_distance(*_gaussian(halves[0]), *_gaussian(halves[1]))

    def score(samples: Tensor) -> Score:
        report = recogniser.report(samples)
        more = {"recognised": report.recognised, "tint_matches": report.tint_matches}
        return replace(_frechet(extract_features(samples), *data), more=more)

    return Measure("Frechet distance to the data", HALVES, floor, 0.0, score)


def reference_measure(reference: Reference, extractor: Extractor, batch_size: int) -> Measure:
    """Return the Frechet distance to a reference, in the features of an extractor: the FID of Inception's.

    Samples are rounded to 8 bits, as ``scoresde-fast eval`` does, and ``batch_size`` of them are extracted at once.
    """

    def features(images: Tensor) -> Tensor:
        pixels = to_uint8(images, "floor").permute(0, 3, 1, 2).contiguous()
        return extractor(pixels)[extractor.layer].cpu().double()

    def score(samples: Tensor) -> Score:
        rows = torch.cat([features(batch) for batch in samples.split(batch_size)])
        return _frechet(rows, reference.mean, reference.covariance)

    name = f"Frechet distance to {reference.record['source']} ({extractor.name})"
    return Measure(name, HALVES, reference.floor, 0.0, score)


def _frechet(features: Tensor, mean: Tensor, covariance: Tensor) -> Score:
    """Return the score of samples by their features (N, D): the Frechet distance to a Gaussian."""
    return halved(features, FrechetDistance(mean, covariance).of_features)


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the covariance."""
    return features.mean(0), features.T.cov()


def halved(values: Any, quality: Callable[[Any], float]) -> Score:
    """Return the score of N values from all and from halves; if N is odd, each halving leaves one value out."""
    half = len(values) // 2
    differences = []
    for seed in range(HALVINGS):
        order = np.random.default_rng(seed).permutation(len(values))
        differences.append(quality(values[order[:half]]) - quality(values[order[half : 2 * half]]))
    return Score(quality(values), differences)


def standard_error(half_differences: Sequence[float]) -> float:
    """Return the standard error of a quality from the differences between halves."""
    return float(np.sqrt(np.mean(np.square(half_differences))) / 2)


def paired_standard_error(half_differences: Sequence[float], others: Sequence[float]) -> float:
    """Return the standard error of the difference between two candidates' qualities."""
    return standard_error(np.subtract(half_differences, others).tolist())


# A one-dimensional Gaussian mixture, a model with an exact score.

WEIGHTS, MEANS, STD = (0.3, 0.5, 0.2), (-0.8, -0.1, 0.6), 0.05
MIXTURES: dict[str, Callable[[], SDE]] = {
    "mixture-ve": VESDE,
    "mixture-vp": VPSDE,
    "mixture-subvp": SubVPSDE,
    "mixture-cld": CLDSDE,
    "mixture-edm": EDM,
    "mixture-betas": Betas.linear,
    "mixture-flow": RectifiedFlow,
}
"""SDEs of the mixtures by name, with their default noise levels."""


def mixture(name: str) -> GaussianMixture:
    """Return the model of scalars .3 N(-.8) + .5 N(-.1) + .2 N(.6) with std .05, on the SDE of ``name``."""
    means = torch.tensor(MEANS, dtype=torch.float64).view(-1, 1, 1, 1)
    return GaussianMixture(MIXTURES[name](), WEIGHTS, means, [STD] * len(MEANS), is_image=False)


def wasserstein(values: Array) -> float:
    """Return the 2-Wasserstein distance of (N,) values to the mixture."""
    return float(np.sqrt(((np.sort(values) - quantiles(len(values))) ** 2).mean()))


@lru_cache(maxsize=4)
def quantiles(count: int) -> Array:
    """Return the mixture's quantiles at (i + 1/2) / count, by bisection to machine precision."""
    targets = torch.from_numpy((np.arange(count) + 0.5) / count)
    lower, upper = (torch.full_like(targets, edge) for edge in (min(MEANS) - 12 * STD, max(MEANS) + 12 * STD))
    for _ in range(60):
        middle = (lower + upper) / 2
        cdf = sum(w * torch.special.ndtr((middle - m) / STD) for w, m in zip(WEIGHTS, MEANS, strict=True))
        lower, upper = torch.where(cdf < targets, middle, lower), torch.where(cdf < targets, upper, middle)
    quantile: Array = ((lower + upper) / 2).numpy()
    return quantile


def exact_draws(count: int, seed: int) -> Array:
    """Return ``count`` samples from the mixture itself."""
    generator = np.random.default_rng(seed)
    draws: Array = generator.choice(MEANS, count, p=WEIGHTS) + STD * generator.normal(size=count)
    return draws


# The converged probability flow, in float64 with many steps.

STEPS = 256
MAX_FLOW_SEEDS = 1024
"""The flow is computed for at most this number of seeds, the first ones."""


@dataclass(frozen=True)
class RungeKutta:
    """An explicit Runge-Kutta method: rows of the Butcher matrix from the second stage on, and weights."""

    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


CLASSICAL_4 = RungeKutta(((1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
KUTTA_3 = RungeKutta(((1 / 2,), (-1, 2)), (1 / 6, 2 / 3, 1 / 6))
"""Methods of orders 4 and 3 (Kutta 1901)."""


@dataclass(frozen=True, eq=False)
class ConvergedFlow:
    """The solution of the probability flow at eps, from the priors of the first N seeds.

    Attributes:
        end: data part of the states (N, C, H, W), by `CLASSICAL_4`.
        gap: root mean square difference from `KUTTA_3` with twice the steps: the accuracy of ``end``.
    """

    end: Tensor
    gap: float

    @classmethod
    def of(cls, model: ScoreFunction, samples: int) -> ConvergedFlow:
        """Solve the flow for the seeds of ``samples`` samples, at most `MAX_FLOW_SEEDS`."""
        noise = Noise(0, torch.arange(min(samples, MAX_FLOW_SEEDS)))
        start = model.prior(noise.normal(0, model.state_shape)).double()
        ends = [solve(model, start, method, n) for method, n in ((CLASSICAL_4, STEPS), (KUTTA_3, 2 * STEPS))]
        end, other = (states.chunk(model.sde.parts, dim=1)[0] for states in ends)
        return cls(end, _root_mean_square(end - other))

    def error(self, end: Tensor) -> float:
        """Return the root mean square error of a solver's solution (N, C, H, W)."""
        return _root_mean_square(end.to(self.end) - self.end)

    @property
    def seeds(self) -> Sequence[int]:
        """The seeds of the solution."""
        return range(len(self.end))


@torch.no_grad()
def solve(model: ScoreFunction, x: Tensor, method: RungeKutta, steps: int) -> Tensor:
    """Solve the flow from states (N, ...) at T to eps, on the grid "karras"; on betas each step is that of a beta."""
    sde = model.sde
    # The flow of betas is smooth only within each of them.
    name, steps = ("uniform", len(sde) - 1) if isinstance(sde, Betas) else ("karras", steps)
    grid = make_grid(name, sde, steps, sde.sampling_eps)
    fractions = [0.0, *(sum(stage) for stage in method.stages)]
    for t, dt in zip(grid.times, grid.dt, strict=True):
        slopes: list[Tensor] = []
        for fraction, stage in zip(fractions, ((), *method.stages), strict=True):
            stage_x = x - dt * sum((a * slope for a, slope in zip(stage, slopes, strict=True)), torch.zeros_like(x))
            slopes.append(model.probability_flow(stage_x, torch.full((len(x),), t - fraction * dt, dtype=x.dtype)))
        x = x - dt * sum((w * slope for w, slope in zip(method.weights, slopes, strict=True)), torch.zeros_like(x))
    return x


def _root_mean_square(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
