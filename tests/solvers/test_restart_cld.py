# SPDX-License-Identifier: Apache-2.0
"""Restart with the solvers of CLD."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import scoresde_fast as sf
from scoresde_fast.sdes import CLDSDE
from scoresde_fast.solvers import SolverOptions, build_table
from scoresde_fast.solvers.exact_moments import marginal, prior, propagate
from tests.support.chance import assert_moments
from tests.support.toy_solvers import order_of

SDE, DATA, EPS = CLDSDE(beta0=0.1, beta1=6.9), (0.3, 0.5), 0.02
SOLVERS = {
    "sscs": (SolverOptions("sscs"), 1),
    "em": (SolverOptions("em"), 1),
    "gddim": (SolverOptions("gddim", order=2), 2),
    "gddim, eta 1": (SolverOptions("gddim", order=1, eta=1), 1),
}


def final_error(options: SolverOptions) -> float:
    """Return the error in mean and covariance at the end of a run."""
    got = propagate(build_table(SDE, options), SDE, DATA, marginal(SDE, SDE.T, *DATA))
    wanted = marginal(SDE, EPS, *DATA)
    return float(np.abs(got.mean - wanted.mean).max() + np.abs(got.covariance - wanted.covariance).max())


@pytest.mark.parametrize("name", SOLVERS)
def test_order_with_restarts(name: str) -> None:
    """With two intervals a solver keeps its order, within 0.25."""
    options, order = SOLVERS[name]
    sizes, errors = (100, 200, 400), []
    for n in sizes:
        intervals = ((0.2, 0.5, 2, n // 4), (0.05, 0.3, 1, n // 4))
        run = replace(options, steps=n, grid="quadratic", denoise=False, eps=EPS, restart=intervals)
        errors.append(final_error(run))
    assert errors[-1] < 0.02
    assert order_of(sizes, errors) == pytest.approx(order, abs=0.25)


def test_jump_is_the_forward_kernel() -> None:
    """The row without an evaluation is the kernel u(t_max) | u(t_min)."""
    rows = build_table(SDE, SolverOptions("em", 6, restart=((0.2, 0.7, 1, 2),))).rows
    (jump,) = [row for row in rows if row.derive is None]
    mean, covariance = SDE.transition(0.2, 0.7)
    assert np.allclose(jump.state, mean, rtol=1e-12)
    assert isinstance(jump.noise, np.ndarray)
    assert np.allclose(jump.noise @ jump.noise.T, covariance, rtol=1e-12)


def test_restart_reduces_errors() -> None:
    """An interval halves the error of a coarse run on the flow."""
    coarse = SolverOptions("gddim", 6, grid="quadratic", order=1, denoise=False, eps=EPS)
    assert final_error(replace(coarse, restart=((0.05, 0.4, 3, 24),))) < 0.5 * final_error(coarse)


@pytest.mark.statistical
def test_samples_match_the_table(run_seed: int) -> None:
    """20 000 positions of a short run with restarts have the mean and standard deviation that the table predicts."""
    options: dict[str, Any] = {"solver": "sscs", "steps": 12, "grid": "quadratic", "restart": ((0.1, 0.4, 2, 5),)}
    predicted = propagate(build_table(SDE, SolverOptions(**options)), SDE, DATA, prior(SDE))
    model = sf.GaussianMixture(SDE, [1.0], torch.full((1, 1, 1, 1), DATA[0]), [DATA[1]], is_image=False)
    positions = sf.sample(model, range(20_000), batch_size=20_000, run_seed=run_seed, **options)
    assert_moments(positions, predicted.mean[0], np.sqrt(predicted.covariance[0, 0]))
