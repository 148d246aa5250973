# SPDX-License-Identifier: Apache-2.0
"""ER-SDE-Solver compared with a plain loop and with DDIM."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from scoresde_fast.solvers import StepTable
from tests.support.toy_solvers import SDE_OF, STEPS, Mixture, X, data_prediction, one_step, rows_of, schedule_of


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", SDE_OF)
def test_er_sde_matches_the_paper(name: str, order: int) -> None:
    """The steps of Cui et al. in sigma, with integrals over 1 / phi by another quadrature, give the same states."""
    sde, schedule = SDE_OF[name], schedule_of(SDE_OF[name])
    sigma, normals = schedule.noise_to_signal, np.random.default_rng(0).normal(size=(STEPS, len(X)))

    def phi(s: float) -> float:
        return s * (np.exp(s**0.3) + 10)

    y = sde.prior_std * X / schedule.scale[0]
    values: list[np.ndarray] = []
    slopes: list[np.ndarray] = []
    for i in range(STEPS):
        s, after = sigma[i], sigma[i + 1]
        values.append(data_prediction(sde, schedule, i, schedule.scale[i] * y))
        r = phi(after) / phi(s)
        y = r * y + (1 - r) * values[i] + np.sqrt(after**2 - s**2 * r**2) * normals[i]
        if order > 1 and i > 0:
            slopes.append((values[i] - values[i - 1]) / (s - sigma[i - 1]))
            whole = quad(lambda u: 1 / phi(u), after, s, epsabs=0, epsrel=1e-12)[0]
            y = y + (after - s + phi(after) * whole) * slopes[-1]
        if order > 2 and i > 1:
            curvature = (slopes[-1] - slopes[-2]) / ((s - sigma[i - 2]) / 2)
            first = quad(lambda u, s=s: (u - s) / phi(u), after, s, epsabs=0, epsrel=1e-12)[0]
            y = y + ((after - s) ** 2 / 2 + phi(after) * first) * curvature
    end = Mixture().run(sde, StepTable.of(rows_of(sde, "er_sde", order=order)), sde.prior_std * X, normals)
    np.testing.assert_allclose(end, schedule.scale[-1] * y, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", SDE_OF)
def test_without_noise_order_1_is_ddim(name: str) -> None:
    """phi(s) = s gives the probability flow: with order 1 the steps of DDIM, for eta = 0 as for the option."""
    rows = rows_of(SDE_OF[name], "er_sde", order=1, probability_flow=True)
    assert rows_of(SDE_OF[name], "er_sde", order=1, eta=0.0) == rows
    for row, ddim in zip(rows, rows_of(SDE_OF[name], "ddim"), strict=True):
        assert one_step(row) == pytest.approx(one_step(ddim), rel=1e-9, abs=1e-12)
