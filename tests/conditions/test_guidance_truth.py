# SPDX-License-Identifier: Apache-2.0
"""Guided samples against the exact posterior, where guidance is exact and the samples are Gaussian."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import scoresde_fast as sf
from scoresde_fast.solvers import SOLVERS, SolverOptions, build_table
from scoresde_fast.solvers.exact_moments import Gaussian, prior, propagate
from tests.support.chance import assert_moments
from tests.support.conditioned_models import CASES, IDS, MEANS, SDE_OF, SHAPE, STD, TOP, Bayes, model_of, points_of


def grid_of(sde: str, solver: str) -> dict[str, Any]:
    """Return the grid option that suits few steps of a solver."""
    if sde == "cld":
        return {"grid": "quadratic"}
    return {} if solver == "pc" or SOLVERS[solver].published else {"grid": "logsnr"}


CORRECTOR_BIAS = 0.06
"""Error of "pc" in standard deviations: up to 0.054, measured over 49 152 elements.  The corrector computes its step
from the norms of a sample's 48 elements; `propagate` replaces the norms by their expectations."""


def predicted(sde: str, solver: str, steps: int, mean: float, std: float) -> Gaussian:
    """Return the distribution at the end of a run with the score of N(mean, std^2) data."""
    table = build_table(SDE_OF[sde], SolverOptions(solver, steps, **grid_of(sde, solver)))
    return propagate(table, SDE_OF[sde], (mean, std), prior(SDE_OF[sde]))


def assert_distribution(x: Tensor, solver: str, expected: Gaussian) -> None:
    """Check the moments of independent elements against those that the solver's table predicts."""
    bias = CORRECTOR_BIAS if solver == "pc" else 0.0
    assert_moments(x, expected.mean[0], np.sqrt(expected.covariance[0, 0]), bias=bias)


@pytest.mark.statistical
@pytest.mark.parametrize(("sde", "solver"), CASES, ids=IDS)
def test_classes(sde: str, solver: str, run_seed: int) -> None:
    """Samples guided by the exact classifier have the distribution of a run with the score of the class's component."""
    model = model_of(sde, is_image=False)
    classes: list[int | str] = [0, "bright"] * 16
    options = {"solver": solver, "steps": 40, "run_seed": run_seed, **grid_of(sde, solver)}
    samples = sf.sample(model, classes=classes, classifier=Bayes(is_image=False), class_scale=1.0, **options)
    for class_samples, mean in zip((samples[::2], samples[1::2]), MEANS, strict=True):
        assert (class_samples.mean((1, 2, 3)) - mean).abs().max() < 0.2  # the means of the classes differ by 0.5
        assert_distribution(class_samples, solver, predicted(sde, solver, 40, mean, STD))


@pytest.mark.statistical
@pytest.mark.parametrize(("sde", "solver"), CASES, ids=IDS)
def test_noisy_measurement(sde: str, solver: str, run_seed: int) -> None:
    """For Gaussian data, PiGDM samples have the distribution of a run with the posterior's score.

    After 60 steps with that score, the mean and the standard deviation are within 0.1 std of the posterior's.
    """
    noise, value = 0.25, 0.8
    operator, measured = sf.Mask(TOP), value * TOP.expand(1, *SHAPE)
    condition = sf.PiGDM(operator, measured, noise=noise, data_std=0.5)
    options = {"solver": solver, "steps": 60, "run_seed": run_seed, **grid_of(sde, solver)}
    samples = sf.sample(points_of(sde), range(32), condition=condition, **options)
    gain = 0.5**2 / (0.5**2 + noise**2)
    posteriors = (gain * value, 0.5 * (1 - gain) ** 0.5), (0.0, 0.5)
    for part, (mean, std) in zip((samples[:, :, :2], samples[:, :, 2:]), posteriors, strict=True):
        expected = predicted(sde, solver, 60, mean, std)
        assert max(abs(expected.mean[0] - mean), abs(expected.covariance[0, 0] ** 0.5 - std)) < 0.1 * std
        assert_distribution(part, solver, expected)


@pytest.mark.statistical
def test_class_and_projection(run_seed: int) -> None:
    """With a class and known pixels, the known pixels are exact, and the others have the class's distribution."""
    model = model_of("vp", is_image=False)
    image = torch.full(SHAPE, 0.5)  # halfway between the classes
    first_row = torch.eye(4)[:, :1].expand(4, 4)
    options: dict[str, Any] = {"solver": "euler_maruyama", "steps": 100, "run_seed": run_seed}
    for label, mean in enumerate(MEANS):
        conditions = (
            sf.Projection(image, first_row),
            sf.ClassGuidance(label, Bayes(is_image=False), scale=1.0),
        )
        samples = sf.sample(model, range(16), condition=conditions, **options)
        assert torch.equal(samples[:, :, 0], image[:, 0].expand(16, -1, -1))
        # Given the class, the pixels of the mixture are independent.
        assert_distribution(samples[:, :, 1:], "euler_maruyama", predicted("vp", "euler_maruyama", 100, mean, STD))
