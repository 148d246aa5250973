# SPDX-License-Identifier: Apache-2.0
"""Runge-Kutta methods of DEIS compared with plain loops and with Heun's method."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers import StepTable
from tests.support.toy_solvers import SDE_OF, Mixture, X, rows_of, schedule_of, slope_in_s


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("name", SDE_OF)
def test_deis_rk_matches_the_textbook(name: str, order: int) -> None:
    """The formulas of Heun, Kutta and the classical method for dy/ds = e, with y = x / scale, give the same states."""
    sde = SDE_OF[name]
    y = sde.prior_std * X / sde.marginal(sde.T).scale
    for s, after in pairwise(schedule_of(sde).noise_to_signal):
        y = step(sde, y, s, after - s, order)
    end = Mixture().run(sde, StepTable.of(rows_of(sde, "deis_rk", order=order)), sde.prior_std * X)
    np.testing.assert_allclose(end, schedule_of(sde).scale[-1] * y, rtol=1e-8, atol=1e-9)


def step(sde: ScalarSDE, y: Array, s: float, h: float, order: int) -> Array:
    """Return y after one step of length ``h`` from ``s``."""
    first = slope_in_s(sde, y, s)
    if order == 2:
        return y + h / 2 * (first + slope_in_s(sde, y + h * first, s + h))
    second = slope_in_s(sde, y + h / 2 * first, s + h / 2)
    if order == 3:
        return y + h / 6 * (first + 4 * second + slope_in_s(sde, y - h * first + 2 * h * second, s + h))
    third = slope_in_s(sde, y + h / 2 * second, s + h / 2)
    return y + h / 6 * (first + 2 * second + 2 * third + slope_in_s(sde, y + h * third, s + h))


@pytest.mark.parametrize("name", SDE_OF)
def test_deis_rk_of_order_2_is_heun(name: str) -> None:
    """Except on rectified flow, order 2 has the coefficients of `heun` without churn."""
    for row, heun in zip(rows_of(SDE_OF[name], "deis_rk", order=2), rows_of(SDE_OF[name], "heun"), strict=True):
        assert row.t == heun.t and row.save == heun.save
        np.testing.assert_allclose(row.coefficients(), heun.coefficients(), rtol=1e-12)
