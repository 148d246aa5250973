# SPDX-License-Identifier: Apache-2.0
"""The fast solvers converge at the orders that the registry claims, on every SDE that they claim."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers import SOLVERS, Row, SolverOptions, StepTable, build_table
from scoresde_fast.solvers.moments import marginal, propagate
from tests.solvers.test_score_sde import MEAN, SDE_OF, STD

EPS = 0.01
FAST = [found for found in SOLVERS.values() if not found.published and isinstance(SDE_OF["vp"], found.sdes)]
FLOWS = [
    (name, found.name, order) for name in SDE_OF for found in FAST if found.probability_flow for order in found.orders
]
NOISY: list[tuple[str, int, dict[str, Any]]] = [
    *[("ddim", 1, {"eta": eta}) for eta in (0.5, 1.0)],
    *[("dpmpp_2m_sde", 2, {"eta": eta}) for eta in (0.5, None)],
    *[("sa", order, {"eta": eta}) for order, eta in ((1, 0.5), (2, None), (2, 1.5), (3, None))],
    ("heun", 2, {"churn": 10.0}),
]
AROUND = [("dpmpp_2m", 2), ("heun", 2), ("sa", 1)]


class Mixture:
    """Two Gaussians on a line: weights, means and deviations of the data."""

    weights, means, stds = np.array([0.4, 0.6]), np.array([-0.5, 0.7]), np.array([0.35, 0.45])

    def score(self, sde: ScalarSDE, x: Array, t: float) -> Array:
        """(n,) the exact score at x (n,)."""
        scale, std = sde.marginal(t)
        variances, away = (scale * self.stds) ** 2 + std**2, x[:, None] - scale * self.means
        densities = self.weights / np.sqrt(variances) * np.exp(-(away**2) / (2 * variances))
        return -(densities * away / variances).sum(1) / densities.sum(1)

    def run(self, sde: ScalarSDE, table: StepTable, x: Array) -> Array:
        """The end of a table without noise, in float64."""
        saved, derived = x, []
        for row in table.rows:
            assert isinstance(row, Row) and row.derive is not None and not row.has_noise
            derived = [row.derive[0] * x + row.derive[1] * self.score(sde, x, row.t), *derived[:3]]
            after = row.state * x + row.saved * saved + sum(w * d for w, d in zip(row.outputs, derived, strict=False))
            x, saved = after, x if row.save else saved
        return x


@cache
def solved(name: str) -> tuple[Array, Array]:
    """Starts at T and where the probability flow takes them, to twelve digits."""
    sde, mixture = SDE_OF[name], Mixture()

    def slope(t: float, x: Array) -> Array:
        drift_x, drift_score, _ = sde.reverse(t, probability_flow=True)
        return drift_x * x + drift_score * mixture.score(sde, x, t)

    start = sde.prior_std * np.linspace(-2, 2, 9)
    return start, solve_ivp(slope, (sde.T, EPS), start, method="DOP853", rtol=1e-13, atol=1e-14).y[:, -1]


def order_of(sizes: tuple[int, ...], errors: list[float]) -> float:
    """The order by regression over numbers of steps."""
    return float(-np.polyfit(np.log(sizes), np.log(errors), 1)[0])


@pytest.mark.parametrize(("name", "solver", "order"), FLOWS, ids=[f"{n}-{s}-{o}" for n, s, o in FLOWS])
def test_order_of_the_flow(name: str, solver: str, order: int) -> None:
    """The distance of a mixture's paths from the exact ones falls at the solver's order, within 0.25."""
    sde, mixture = SDE_OF[name], Mixture()
    start, exact = solved(name)
    # DEIS of order 4 is so near on VE that with more steps only the start is left, which is of order 2.
    sizes = (40, 80, 160) if (name, solver, order) == ("ve", "deis", 4) else (80, 160, 320)
    errors = []
    for steps in sizes:
        options = SolverOptions(
            solver, steps, grid="karras", probability_flow=True, denoise=False, eps=EPS, order=order
        )
        end = mixture.run(sde, build_table(sde, options), start)
        errors.append(float(np.sqrt(((end - exact) ** 2).mean())))
    assert order_of(sizes, errors) == pytest.approx(SOLVERS[solver].convergence(order), abs=0.25)


def error_in_moments(sde: ScalarSDE, options: SolverOptions) -> float:
    """Of mean and deviation after a run on Gaussian data, from the exact distribution at T."""
    got = propagate(build_table(sde, options), sde, (MEAN, STD), marginal(sde, sde.T, MEAN, STD))
    wanted = marginal(sde, EPS, MEAN, STD)
    deviations = (np.sqrt(gaussian.covariance[0, 0]) for gaussian in (got, wanted))
    return float(abs(got.mean[0] - wanted.mean[0]) + abs(np.subtract(*deviations)))


@pytest.mark.parametrize(
    ("solver", "order", "noise"), NOISY, ids=["-".join(map(str, [s, o, *n.values()])) for s, o, n in NOISY]
)
@pytest.mark.parametrize("name", SDE_OF)
def test_weak_order(name: str, solver: str, order: int, noise: dict[str, Any]) -> None:
    """With noise of any strength mean and deviation converge at the solver's weak order, within 0.25."""
    sizes = (200, 400, 800)
    options = [SolverOptions(solver, n, grid="logsnr", denoise=False, eps=EPS, order=order, **noise) for n in sizes]
    errors = [error_in_moments(SDE_OF[name], choice) for choice in options]
    assert order_of(sizes, errors) == pytest.approx(SOLVERS[solver].convergence(order, noisy=True), abs=0.25)


@pytest.mark.parametrize(("solver", "order"), AROUND, ids=[f"{s}-{o}" for s, o in AROUND])
@pytest.mark.parametrize("name", SDE_OF)
def test_order_with_restarts(name: str, solver: str, order: int) -> None:
    """Two intervals of Restart, with steps in proportion, leave a solver its order."""
    sde, sizes = SDE_OF[name], (150, 300, 600)
    errors = []
    for n in sizes:
        restart = ((0.2, 0.5, 2, n // 4), (0.05, 0.3, 1, n // 4))
        options = SolverOptions(
            solver, n, grid="logsnr", probability_flow=True, denoise=False, eps=EPS, order=order, restart=restart
        )
        errors.append(error_in_moments(sde, options))
    assert order_of(sizes, errors) == pytest.approx(SOLVERS[solver].convergence(order), abs=0.25)
