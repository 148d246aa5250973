# SPDX-License-Identifier: Apache-2.0
"""Projection of correlated Gaussian data: samples have the predicted moments, which converge to the posterior's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import scoresde_fast as sf
from benchmarks.studies.posteriors import CorrelatedGaussian, posterior_moments, projected_moments
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, SubVPSDE
from scoresde_fast.solvers import SolverOptions
from tests.support.chance import covariance_distance_bound, mean_distance_bound

COUNT = 1000
RUNS: dict[str, tuple[SDE, dict[str, Any]]] = {
    "ve": (VESDE(), {"solver": "reverse_diffusion", "grid": "uniform"}),
    "vp": (VPSDE(), {"solver": "reverse_diffusion", "grid": "quadratic"}),
    "subvp": (SubVPSDE(), {"solver": "euler_maruyama", "grid": "quadratic"}),
    "cld": (CLDSDE(), {"solver": "sscs", "grid": "quadratic"}),
}
#: The known values as linear operators on flat images of 3x2x2 pixels.
OPERATORS = {
    "inpainting": np.eye(12)[[0, 4, 8]],
    "gray": np.tile(np.eye(4), (1, 3)) / 3,
    "2x2 averages": np.kron(np.eye(3), np.full((1, 4), 0.25)),
}
SHAPES = {"inpainting": (3, 2, 2), "gray": (1, 2, 2), "2x2 averages": (3, 1, 1)}


@pytest.mark.statistical
@pytest.mark.parametrize("task", OPERATORS)
@pytest.mark.parametrize("name", RUNS)
def test_moments_match_the_prediction(name: str, task: str, run_seed: int) -> None:
    """1000 samples have the mean and covariance of `projected_moments`, within sampling error; known means are exact.

    The bound on the covariance, about a fifth of its norm, is well below its change by the measurement.
    """
    sde, options = RUNS[name]
    options = {**options, "corrector": "ald", "corrector_steps": 4, "snr": 0.32, "steps": 60}
    model, operator = CorrelatedGaussian(sde), OPERATORS[task]
    normals = np.random.default_rng(run_seed).standard_normal(12)
    image = model.data.mean + np.linalg.cholesky(model.data.covariance) @ normals
    measured = operator @ image
    mask = torch.tensor([[1, 0], [0, 0]]) if task == "inpainting" else None
    known = torch.from_numpy(image if task == "inpainting" else measured).float()
    condition = sf.Projection(known.view(SHAPES[task]), mask)
    samples = sf.sample(model, range(COUNT), condition=condition, batch_size=COUNT, run_seed=run_seed, **options)
    flat = samples.flatten(1).double().numpy()
    rounding = 8 * torch.finfo(torch.float32).eps * np.abs(flat).max()
    assert np.abs(flat @ operator.T - measured).max() <= rounding
    expected = projected_moments(model, SolverOptions(**options), operator)
    covariance_bound = covariance_distance_bound(expected.covariance, COUNT)
    assert np.linalg.norm(model.data.covariance - expected.covariance) > 2 * covariance_bound
    assert np.linalg.norm(np.cov(flat.T) - expected.covariance) <= covariance_bound
    mean_error = np.linalg.norm(flat.mean(0) - expected.mean(measured))
    assert mean_error <= mean_distance_bound(expected.covariance, COUNT)


@pytest.mark.parametrize("name", RUNS)
def test_bias_decreases_with_more_steps(name: str) -> None:
    """Twice the steps reduce the errors against the exact posterior by a factor of at least 1.5.

    The errors cover all measurements of one pixel in four; docs/conditional.md gives the bias at 60 and 1000 steps.
    """
    sde, options = RUNS[name]
    model, operator = CorrelatedGaussian(sde), OPERATORS["inpainting"]
    truth = posterior_moments(model, operator)
    few, many = (
        projected_moments(
            model,
            SolverOptions(**options, corrector="ald", corrector_steps=12, snr=0.4, steps=steps),
            operator,
        ).bias(truth, operator, model.data)
        for steps in (60, 120)
    )
    assert few[0] > 1.5 * many[0] and few[1] > 1.5 * many[1], (few, many)
