# SPDX-License-Identifier: Apache-2.0
"""The gradient-estimation sampler compared with the paper and with DDIM."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from scoresde_fast.solvers import SolverOptions, StepTable, build_table
from tests.support.toy_solvers import SDE_OF, Mixture, X, rows_of, schedule_of, slope_in_s


@pytest.mark.parametrize("gamma", [2.0, 1.3])
@pytest.mark.parametrize("name", SDE_OF)
def test_matches_the_paper(name: str, gamma: float) -> None:
    """Algorithm 2 of Permenter & Yuan, for x / scale and sigma, gives the same states."""
    sde, schedule = SDE_OF[name], schedule_of(SDE_OF[name])
    y, previous = sde.prior_std * X / schedule.scale[0], None
    for sigma, after in pairwise(schedule.noise_to_signal):
        newest = slope_in_s(sde, y, sigma)
        average = newest if previous is None else gamma * newest + (1 - gamma) * previous
        y, previous = y + (after - sigma) * average, newest
    rows = rows_of(sde, "gradient_estimation", **({} if gamma == 2 else {"gamma": gamma}))
    end = Mixture().run(sde, StepTable.of(rows), sde.prior_std * X)
    np.testing.assert_allclose(end, schedule.scale[-1] * y, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", SDE_OF)
def test_gamma_one_is_ddim(name: str) -> None:
    """Without extrapolation the steps are those of DDIM."""
    rows = zip(rows_of(SDE_OF[name], "gradient_estimation", gamma=1.0), rows_of(SDE_OF[name], "ddim"), strict=True)
    for row, ddim in rows:
        assert row.derive == ddim.derive and row.outputs[1] == 0
        assert (row.state, row.outputs[0]) == pytest.approx((ddim.state, ddim.outputs[0]), rel=1e-9)


@pytest.mark.parametrize("gamma", [-1.0, float("nan"), float("inf")])
def test_bad_gamma(gamma: float) -> None:
    """A factor that is negative or not finite is refused."""
    with pytest.raises(ValueError, match=r"gamma is .*; it must be a finite number of at least 0"):
        build_table(SDE_OF["vp"], SolverOptions("gradient_estimation", 5, gamma=gamma))
