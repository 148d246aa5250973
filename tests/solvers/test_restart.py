# SPDX-License-Identifier: Apache-2.0
"""Restart with the solvers of VE, VP and sub-VP."""

from __future__ import annotations

import numpy as np
import pytest

from scoresde_fast.sdes import VPSDE
from scoresde_fast.solvers import SOLVERS, SolverOptions, build_table
from scoresde_fast.solvers.exact_moments import prior, propagate
from tests.support.toy_solvers import EPS, MEAN, SDE_OF, STD, error_in_moments, order_of

RESTART = ((0.1, 0.4, 2, 3), (0.3, 1.0, 1, 4))
ORDERS = [("dpmpp_2m", 2), ("heun", 2), ("sa", 1)]


def test_restart_goes_forward_and_back() -> None:
    """At each t_min the run goes to t_max and back, with the given steps and repetitions."""
    table = build_table(VPSDE(), SolverOptions("ddim", 9, grid="karras", restart=RESTART))
    jumps = [row.t for row in table.rows if row.derive is None]
    assert jumps == [0.3, 0.1, 0.1]
    assert table.nfe == 9 + 1 * 4 + 2 * 3
    after = [later.t for row, later in zip(table.rows, table.rows[1:], strict=False) if row.derive is None]
    assert after == [1.0, 0.4, 0.4]
    assert sum(draw is not None for draw in table.draws) == 3


def test_jump_is_the_forward_kernel() -> None:
    """The row without an evaluation is the kernel x(t_max) | x(t_min)."""
    for sde in SDE_OF.values():
        rows = build_table(sde, SolverOptions("heun", 6, restart=((0.2, 0.7, 1, 2),))).rows
        (jump,) = [row for row in rows if row.derive is None]
        start, end = sde.marginal(0.2), sde.marginal(0.7)
        scale = end.scale / start.scale
        assert (jump.state, jump.noise) == pytest.approx((scale, np.sqrt(end.std**2 - (scale * start.std) ** 2)))


def test_restart_reduces_errors() -> None:
    """On Gaussian data an interval halves the error in the variance of a coarse DDIM run."""

    def error(restart: tuple[tuple[float, float, int, int], ...] | None) -> float:
        options = SolverOptions("ddim", 8, grid="karras", restart=restart, denoise=False)
        variance = propagate(build_table(VPSDE(), options), VPSDE(), (MEAN, STD), prior(VPSDE())).covariance[0, 0]
        return float(abs(variance - STD**2))

    assert error(((0.01, 0.4, 3, 12),)) < 0.5 * error(None)


@pytest.mark.parametrize(("solver", "order"), ORDERS, ids=[f"{s}-{o}" for s, o in ORDERS])
@pytest.mark.parametrize("name", SDE_OF)
def test_order_with_restarts(name: str, solver: str, order: int) -> None:
    """A solver keeps its order, within 0.25, with two intervals whose steps grow with those of the run."""
    sde, sizes = SDE_OF[name], (150, 300, 600)
    errors = []
    for n in sizes:
        restart = ((0.2, 0.5, 2, n // 4), (0.05, 0.3, 1, n // 4))
        options = SolverOptions(
            solver, n, grid="logsnr", probability_flow=True, denoise=False, eps=EPS, order=order, restart=restart
        )
        errors.append(error_in_moments(sde, options))
    assert order_of(sizes, errors) == pytest.approx(SOLVERS[solver].convergence(order), abs=0.25)


def test_restart_from_a_string() -> None:
    """A string has one interval or several; other strings are refused with an example."""
    assert SolverOptions(restart="0.1:0.3:2:5").restart == ((0.1, 0.3, 2, 5),)
    assert SolverOptions(restart="0.1:0.3:2:5,1e-2:0.2:1:3").restart == ((0.1, 0.3, 2, 5), (0.01, 0.2, 1, 3))
    for text in ("0.1:0.3:2", "0.1:0.3:2.5:5", "", "a:b:c:d"):
        with pytest.raises(ValueError, match="it must be T_MIN:T_MAX:TIMES:STEPS, as in"):
            SolverOptions(restart=text)
