# SPDX-License-Identifier: Apache-2.0
"""Guided samples against the truth: where guidance is exact, a run is one with the posterior's score, and Gaussian."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import scoresde_fast as sf
from scoresde_fast.solvers import SOLVERS, SolverOptions, build_table
from scoresde_fast.solvers.gaussian import Gaussian, prior, propagate
from tests.support.chance import assert_moments
from tests.support.conditioned_models import CASES, IDS, MEANS, SDE_OF, SHAPE, STD, TOP, Bayes, model_of, points_of


def grid_of(sde: str, solver: str) -> dict[str, Any]:
    """Return the grid that suits few steps of a solver."""
    published = solver == "pc" or SOLVERS[solver].published
    return {"grid": "quadratic"} if sde == "cld" else {} if published else {"grid": "logsnr"}


CORRECTOR_BIAS = 0.06
"""What "pc" is off by, in deviations, as its corrector goes by the norms of 48 numbers, whatever their distributions,
and `propagate` by the mean squares of very many from one: up to 0.054, measured over 49 152 elements."""


def predicted(sde: str, solver: str, steps: int, mean: float, std: float) -> Gaussian:
    """Return the distribution at the end of a run with the score of N(mean, std^2) data."""
    table = build_table(SDE_OF[sde], SolverOptions(solver, steps, **grid_of(sde, solver)))
    return propagate(table, SDE_OF[sde], (mean, std), prior(SDE_OF[sde]))


def assert_distribution(x: Tensor, solver: str, wanted: Gaussian) -> None:
    """The elements are independent and have the moments that the solver's table gives them."""
    bias = CORRECTOR_BIAS if solver == "pc" else 0.0
    assert_moments(x, wanted.mean[0], np.sqrt(wanted.covariance[0, 0]), bias=bias)


@pytest.mark.statistical
@pytest.mark.parametrize(("sde", "solver"), CASES, ids=IDS)
def test_classes(sde: str, solver: str, run_seed: int) -> None:
    """With the exact classifier, by Bayes' rule, the samples of a class are those of a run with its component's score,
    by every solver on every SDE."""
    model, classes = model_of(sde, is_image=False), [0, "bright"] * 16
    assert isinstance(classes, list)
    options = {"solver": solver, "steps": 40, "run_seed": run_seed, **grid_of(sde, solver)}
    samples = sf.sample(model, classes=classes, classifier=Bayes(is_image=False), class_scale=1.0, **options)
    for samples_of, mean in zip((samples[::2], samples[1::2]), MEANS, strict=True):
        assert (samples_of.mean((1, 2, 3)) - mean).abs().max() < 0.2  # the other one is 0.5 away
        assert_distribution(samples_of, solver, predicted(sde, solver, 40, mean, STD))


@pytest.mark.statistical
@pytest.mark.parametrize(("sde", "solver"), CASES, ids=IDS)
def test_a_noisy_measurement(sde: str, solver: str, run_seed: int) -> None:
    """PiGDM of Gaussian data makes a run with the posterior's score, by every solver on every SDE; and 60 steps of it
    end with the posterior's mean and deviation, to a tenth."""
    noise, value = 0.25, 0.8
    operator, measured = sf.Mask(TOP), value * TOP.expand(1, *SHAPE)
    condition = sf.PiGDM(operator, measured, noise=noise, data_std=0.5)
    options = {"solver": solver, "steps": 60, "run_seed": run_seed, **grid_of(sde, solver)}
    samples = sf.sample(points_of(sde), range(32), condition=condition, **options)
    share = 0.5**2 / (0.5**2 + noise**2)
    posteriors = (share * value, 0.5 * (1 - share) ** 0.5), (0.0, 0.5)
    for part, (mean, std) in zip((samples[:, :, :2], samples[:, :, 2:]), posteriors, strict=True):
        wanted = predicted(sde, solver, 60, mean, std)
        assert abs(wanted.mean[0] - mean) < 0.1 * std > abs(wanted.covariance[0, 0] ** 0.5 - std)
        assert_distribution(part, solver, wanted)


@pytest.mark.statistical
def test_classes_and_mask_go_together(run_seed: int) -> None:
    """A class and a known part: the part is exact, and the rest is of the class."""
    model = model_of("vp", is_image=False)
    image = torch.full(SHAPE, 0.5)  # of neither class
    options: dict[str, Any] = {"solver": "euler_maruyama", "steps": 100, "run_seed": run_seed}
    for label, mean in enumerate(MEANS):
        conditions = (
            sf.Projection(image, TOP.clone().masked_fill_(torch.arange(4).view(4, 1) > 0, 0)),
            sf.ClassGuidance(label, Bayes(is_image=False), scale=1.0),
        )
        samples = sf.sample(model, range(16), condition=conditions, **options)
        assert torch.equal(samples[:, :, 0], image[:, 0].expand(16, -1, -1))
        # Given the class, the pixels of the mixture know nothing of each other.
        assert_distribution(samples[:, :, 1:], "euler_maruyama", predicted("vp", "euler_maruyama", 100, mean, STD))
