# SPDX-License-Identifier: Apache-2.0
"""Exactness of the fast solvers for a single data point, and the denoising step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from scoresde_fast.solvers import SOLVERS, SolverOptions, StepTable, build_table
from scoresde_fast.solvers.exact_moments import marginal, prior, propagate
from tests.support.toy_solvers import FAST, MEAN, SDE_OF, STD

FORMS: list[tuple[str, dict[str, Any]]] = [
    *[(entry.name, {"order": order}) for entry in FAST for order in entry.orders],
    *[(solver, {"eta": 0.6}) for solver in ("ddim", "dpmpp_2m_sde", "sa", "er_sde", "seeds")],
    ("ddim", {"eta": 1.0}),
    ("heun", {"churn": 1.5}),
]
CONSTANT_FOR_A_POINT = [form for form in FORMS if form[0] != "trigflow"]
FORM_IDS = ["-".join([solver, *(f"{name}{value}" for name, value in options.items())]) for solver, options in FORMS]


@pytest.mark.parametrize(("solver", "options"), CONSTANT_FOR_A_POINT, ids=map(str, CONSTANT_FOR_A_POINT))
@pytest.mark.parametrize("name", SDE_OF)
def test_solvers_are_exact_for_a_point(name: str, solver: str, options: dict[str, Any]) -> None:
    """For a single data point predictions are constant, so three long steps of any solver are exact.

    The variance is a small difference of large numbers: the last bit of a coefficient changes it by up to 4e-10, but
    the mean only by 1e-14.
    """
    sde = SDE_OF[name]
    table = build_table(sde, SolverOptions(solver, 3, grid="karras", denoise=False, eps=0.1, **options))
    got = propagate(table, sde, (MEAN, 0.0), marginal(sde, sde.T, MEAN, 0.0))
    wanted = marginal(sde, 0.1, MEAN, 0.0)
    assert got.mean == pytest.approx(wanted.mean, rel=1e-12)
    assert got.covariance == pytest.approx(wanted.covariance, rel=1e-8)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", SDE_OF)
def test_trigflow_is_exact_for_a_gaussian(name: str, order: int) -> None:
    """For data N(0, sigma_data^2) the velocity is 0, so three long steps are exact.

    The velocity is the difference of numbers that are larger than the state by s / sigma_data.
    """
    sde, std = SDE_OF[name], 0.3
    options = SolverOptions("trigflow", 3, grid="karras", denoise=False, eps=0.1, order=order, sigma_data=std)
    table = build_table(sde, options)
    got = propagate(table, sde, (0.0, std), marginal(sde, sde.T, 0.0, std))
    weight = sum(float(np.abs(row.outputs).sum()) for row in table.rows)
    rounding = 2**-51 * float(sde.noise_to_signal(sde.T) / std) * weight
    assert got.covariance == pytest.approx(marginal(sde, 0.1, 0.0, std).covariance, rel=1e-12 + rounding)


@pytest.mark.parametrize(("solver", "options"), FORMS, ids=FORM_IDS)
@pytest.mark.parametrize("name", SDE_OF)
def test_denoising_is_the_posterior_mean(name: str, solver: str, options: dict[str, Any]) -> None:
    """The denoising step is one evaluation at eps and returns E[x(0) | x(eps)] for Gaussian data."""
    sde, eps = SDE_OF[name], SDE_OF[name].sampling_eps
    chosen = SolverOptions(solver, 8, grid="logsnr", **options)
    table = build_table(sde, chosen)
    before = StepTable.of(table.rows[:-1])
    assert table.rows[-1].t == eps and table.draws[-1] is None
    without_denoising = build_table(sde, replace(chosen, steps=7, denoise=False))
    entry = SOLVERS[solver]
    evaluations = entry.evaluations_per_step(options.get("order", entry.options.get("order", entry.orders[0])))
    assert table.nfe == without_denoising.nfe + 1 == 7 * evaluations + entry.starting_evaluations + 1
    exact, state = marginal(sde, eps, MEAN, STD), propagate(before, sde, (MEAN, STD), prior(sde))
    gain = sde.marginal(eps).scale * STD**2 / exact.covariance[0, 0]
    after = propagate(table, sde, (MEAN, STD), prior(sde))
    assert after.mean == pytest.approx(MEAN + gain * (state.mean - exact.mean), rel=1e-9)
    assert after.covariance == pytest.approx(gain**2 * state.covariance, rel=1e-9)
