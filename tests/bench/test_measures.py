# SPDX-License-Identifier: Apache-2.0
"""Tests of the measures: distances, their standard errors, and the converged flow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import scoresde_fast as sf
from scoresde_fast.bench import measures
from scoresde_fast.bench.measures import (
    CLASSICAL_4,
    KUTTA_3,
    MEANS,
    MIXTURES,
    STD,
    WEIGHTS,
    ConvergedFlow,
    RungeKutta,
    exact_draws,
    halved,
    mixture,
    paired_standard_error,
    quantiles,
    solve,
    standard_error,
    wasserstein,
    wasserstein_measure,
)
from scoresde_fast.sdes import SDES, ScalarSDE
from tests.support.chance import SIGMAS


@pytest.mark.statistical
def test_wasserstein_distance_to_the_mixture(run_seed: int) -> None:
    """The quantiles have the mixture's moments, a shift by 0.1 gives 0.1, and exact samples have the floor's distance.

    The floor, the mean over 16 sets of samples, is compared with the mean over 64 other sets.
    """
    exact = quantiles(20_000)
    second_moment = np.dot(WEIGHTS, np.square(MEANS)) + STD**2
    assert exact.mean() == pytest.approx(np.dot(WEIGHTS, MEANS), abs=1e-4)
    assert np.square(exact).mean() == pytest.approx(second_moment, rel=1e-3)
    assert wasserstein(np.random.default_rng(0).permutation(exact) + 0.1) == pytest.approx(0.1)
    measure = wasserstein_measure(2000)
    assert measure.floor is not None and 0 < measure.floor < measure.chance < 0.15
    draws = [exact_draws(2000, 100 + 64 * run_seed + index) for index in range(64)]
    distances = list(map(wasserstein, draws))
    assert measure.score(torch.from_numpy(draws[0]).view(-1, 1, 1, 1)).quality == pytest.approx(distances[0])
    tolerance = SIGMAS * np.std(distances, ddof=1) * np.sqrt(1 / 16 + 1 / 64)
    assert np.mean(distances) == pytest.approx(measure.floor, abs=tolerance)


@pytest.mark.statistical
def test_standard_error_from_halves(run_seed: int) -> None:
    """The standard error of the mean of 4 000 standard normals is 1 / sqrt(4000); pairs cancel common noise.

    The variance comes from 16 halvings of each of 50 sets, and so has 800 degrees of freedom.
    """
    sets = np.random.default_rng(run_seed).normal(size=(50, 4000))
    scores = [halved(values, lambda part: float(np.mean(part))) for values in sets]
    variance = np.mean([standard_error(score.half_differences) ** 2 for score in scores])
    assert 4000 * variance == pytest.approx(1, abs=SIGMAS * np.sqrt(2 / 800))
    first, common = sets[:2]
    plain, shifted = (halved(common + shift, lambda values: float(np.mean(values))) for shift in (0.0, 0.5 * first))
    assert paired_standard_error(plain.half_differences, plain.half_differences) == 0
    paired = paired_standard_error(plain.half_differences, shifted.half_differences)
    assert paired == pytest.approx(0.5 * standard_error(scores[0].half_differences), rel=1e-6)


@pytest.mark.parametrize("name", [name for name in SDES if name != "cld"])
@pytest.mark.parametrize(("method", "order"), [(CLASSICAL_4, 4), (KUTTA_3, 3)], ids=["order 4", "order 3"])
def test_the_converged_flow_is_exact_on_a_gaussian(name: str, method: RungeKutta, order: int) -> None:
    """A Gaussian's probability flow preserves quantiles, and each method converges to it with its order."""
    sde = SDES[name]()
    assert isinstance(sde, ScalarSDE)
    mean, std = 0.3, 0.5
    model = sf.GaussianMixture.gaussian(sde, mean, std, (1, 1, 1))
    start = torch.linspace(-2, 2, 5, dtype=torch.float64).view(-1, 1, 1, 1) * sde.prior_std
    scale, noise = map(float, sde.marginal(sde.T))
    scale_eps, noise_eps = map(float, sde.marginal(sde.sampling_eps))
    quantile = (start - scale * mean) / math.hypot(scale * std, noise)
    exact = scale_eps * mean + math.hypot(scale_eps * std, noise_eps) * quantile
    errors = [float((solve(model, start, method, steps) - exact).abs().max()) for steps in (32, 64)]
    assert errors[1] < 2e-4 and errors[1] < errors[0] / 2 ** (order - 0.2)


@pytest.mark.parametrize("name", MIXTURES)
def test_the_converged_flow_is_checked_by_another_method(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods agree on each mixture to 1e-4, and a shift by 0.25 has the error 0.25."""
    monkeypatch.setattr(measures, "STEPS", 64)
    flow = ConvergedFlow.of(mixture(name), 32)
    assert 0 < flow.gap < 1e-4
    assert flow.error(flow.end.float() + 0.25) == pytest.approx(0.25, rel=1e-4)
    assert flow.end.abs().max() < 1.2 and list(flow.seeds) == list(range(32))
