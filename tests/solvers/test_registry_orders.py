# SPDX-License-Identifier: Apache-2.0
"""Orders of convergence of the fast solvers, compared with the registry."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from scoresde_fast.sdes import EDM, Array, RectifiedFlow, ScalarSDE, Schedule
from scoresde_fast.solvers import SOLVERS, SolverOptions, build_table
from tests.support.toy_solvers import EPS, FAST, SDE_OF, Mixture, error_in_moments, order_of

ANY: dict[str, ScalarSDE] = {
    **SDE_OF,
    "edm": EDM(),
    "rectified_flow": RectifiedFlow(),
    "functions": Schedule(lambda t: np.cos(1.56 * t), lambda t: np.sin(1.56 * t)),
}
FLOWS = [
    (name, entry.name, order) for name in ANY for entry in FAST if entry.probability_flow for order in entry.orders
]
FORMS: list[tuple[str, int, dict[str, Any]]] = [
    *[("unipc", order, {"variant": form}) for order in (1, 2) for form in ("bh1", "vary_coeff")],
    *[("unipc", order, {"prediction": "noise"}) for order in (1, 2, 3)],
    *[("seeds", order, {"prediction": "noise"}) for order in (1, 2, 3)],
    *[("deis", order, {"variable": "log_rho"}) for order in (2, 3, 4)],
]
NOISY: list[tuple[str, int, dict[str, Any]]] = [
    *[("ddim", 1, {"eta": eta}) for eta in (0.5, 1.0)],
    *[("dpmpp_2m_sde", 2, {"eta": eta}) for eta in (0.5, None)],
    *[("dpmpp_3m_sde", 3, {"eta": eta}) for eta in (0.5, None)],
    *[("sa", order, {"eta": eta}) for order, eta in ((1, 0.5), (2, None), (2, 1.5), (3, None))],
    *[("er_sde", order, {"eta": eta}) for order, eta in ((1, None), (2, None), (2, 0.5), (3, None), (3, 1.5))],
    *[("seeds", order, {"eta": eta}) for order, eta in ((1, None), (2, None), (2, 0.5), (2, 1.5), (3, None))],
    ("heun", 2, {"churn": 10.0}),
]


@cache
def solved(name: str) -> tuple[Array, Array]:
    """Return states at T and the exact ends of their paths on the probability flow, to twelve digits."""
    sde, mixture = ANY[name], Mixture()

    def slope(t: float, x: Array) -> Array:
        drift_x, drift_score, _ = sde.reverse(t, probability_flow=True)
        return drift_x * x + drift_score * mixture.score(sde, x, t)

    start = sde.prior_std * np.linspace(-2, 2, 9)
    return start, solve_ivp(slope, (sde.T, EPS), start, method="DOP853", rtol=1e-13, atol=1e-14).y[:, -1]


@pytest.mark.parametrize(("name", "solver", "order"), FLOWS, ids=[f"{n}-{s}-{o}" for n, s, o in FLOWS])
def test_order_of_the_flow(name: str, solver: str, order: int) -> None:
    """The error of paths on a mixture decreases at the solver's order, within 0.25."""
    assert measured_order(name, solver, order) == pytest.approx(SOLVERS[solver].convergence(order), abs=0.25)


@pytest.mark.parametrize(
    ("solver", "order", "form"), FORMS, ids=["-".join(map(str, [s, o, *f.values()])) for s, o, f in FORMS]
)
@pytest.mark.parametrize("name", SDE_OF)
def test_order_of_other_forms(name: str, solver: str, order: int, form: dict[str, Any]) -> None:
    """Every form of a solver has its order, within 0.25."""
    assert measured_order(name, solver, order, **form) == pytest.approx(SOLVERS[solver].convergence(order), abs=0.25)


def measured_order(name: str, solver: str, order: int, **form: Any) -> float:
    """Return the order of convergence of paths on a mixture."""
    sde, mixture = ANY[name], Mixture()
    # On VE with more steps the second-order error of the start dominates that of DEIS of order 4.
    sizes = (40, 80, 160) if (name, solver, order) == ("ve", "deis", 4) else (80, 160, 320)
    start, exact = solved(name)
    errors = []
    for steps in sizes:
        options = SolverOptions(
            solver, steps, grid="karras", probability_flow=True, denoise=False, eps=EPS, order=order, **form
        )
        end = mixture.run(sde, build_table(sde, options), start)
        errors.append(float(np.sqrt(((end - exact) ** 2).mean())))
    return order_of(sizes, errors)


@pytest.mark.parametrize(
    ("solver", "order", "noise"), NOISY, ids=["-".join(map(str, [s, o, *n.values()])) for s, o, n in NOISY]
)
@pytest.mark.parametrize("name", ANY)
def test_weak_order(name: str, solver: str, order: int, noise: dict[str, Any]) -> None:
    """With noise, mean and standard deviation converge at the solver's weak order, within 0.25."""
    sizes = (200, 400, 800)
    options = [SolverOptions(solver, n, grid="logsnr", denoise=False, eps=EPS, order=order, **noise) for n in sizes]
    errors = [error_in_moments(ANY[name], choice) for choice in options]
    assert order_of(sizes, errors) == pytest.approx(SOLVERS[solver].convergence(order, noisy=True), abs=0.25)
