# SPDX-License-Identifier: Apache-2.0
"""DDIM, Heun's method and RES compared with the papers; DDIM also with ancestral sampling and multistep methods."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from scoresde_fast.sdes import VESDE, VPSDE, Array, RectifiedFlow, ScalarSDE, Schedule
from scoresde_fast.solvers import SolverOptions, StepTable, build_table, make_grid
from tests.support.toy_solvers import (
    SDE_OF,
    STEPS,
    Mixture,
    X,
    data_prediction,
    one_step,
    rows_of,
    schedule_of,
    slope_in_s,
)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_matches_the_paper(eta: float) -> None:
    """Coefficients on VP equal equations 12 and 16 of Song, Meng & Ermon, written in their alphas."""
    alphas = VPSDE().marginal(make_grid("sqrt", VPSDE(), STEPS, 0.01).edges).scale ** 2
    for row, a, b in zip(rows_of(VPSDE(), "ddim", eta=eta), alphas[:-1], alphas[1:], strict=True):
        sigma = eta * np.sqrt((1 - b) / (1 - a)) * np.sqrt(1 - a / b)
        noise = np.sqrt(1 - b - sigma**2) - np.sqrt(b / a) * np.sqrt(1 - a)
        assert row.derive is not None and row.derive[0] == 0.0
        assert row.derive[1] == pytest.approx(-np.sqrt(1 - a))
        assert (row.state, *row.outputs, row.noise) == pytest.approx((np.sqrt(b / a), noise, sigma), rel=1e-10)


def test_ddim_with_full_noise_is_ancestral() -> None:
    """On VE with eta = 1 each step equals that of ancestral sampling."""
    for ddim, ancestral in zip(rows_of(VESDE(), "ddim", eta=1.0), rows_of(VESDE(), "ancestral"), strict=True):
        assert one_step(ddim) == pytest.approx(one_step(ancestral), rel=1e-9)


@pytest.mark.parametrize("name", SDE_OF)
@pytest.mark.parametrize(
    ("solver", "order"),
    [
        *[("deis", order) for order in (2, 3, 4)],
        *[("ipndm", order) for order in (2, 3, 4)],
        *[("unipc", order) for order in (1, 2, 3)],
        *[("sa", order) for order in (1, 2, 3)],
        *[(solver, None) for solver in ("dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde")],
    ],
)
def test_first_step_is_ddim(name: str, solver: str, order: int | None) -> None:
    """Multistep methods on the flow start with a DDIM step, in noise and in data prediction."""
    first = rows_of(SDE_OF[name], solver, order=order, probability_flow=True)[0]
    assert one_step(first) == pytest.approx(one_step(rows_of(SDE_OF[name], "ddim")[0]), rel=1e-9, abs=1e-12)


def test_first_step_with_eta_one_is_ddim() -> None:
    """With eta = 1 stochastic multistep methods start with the DDIM step of eta = 1."""
    wanted = one_step(rows_of(VPSDE(), "ddim", eta=1.0)[0])
    assert one_step(rows_of(VPSDE(), "dpmpp_2m_sde")[0]) == pytest.approx(wanted, rel=1e-9)
    assert one_step(rows_of(VPSDE(), "sa")[0]) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    "sde", [RectifiedFlow(), Schedule(lambda t: 1 - t, lambda t: t, T=0.999)], ids=["flow", "functions"]
)
def test_heun_on_rectified_flow(sde: ScalarSDE) -> None:
    """On rectified flow the steps are those of Heun's method for dx/dt = E[z - x(0) | x(t)], on an exact mixture."""
    options = SolverOptions("heun", 9, grid="uniform", denoise=False, eps=0.05)
    grid = make_grid("uniform", sde, 9, 0.05)
    x = np.linspace(-2.0, 2.5, 7)
    table = build_table(sde, options)

    def velocity(x: Array, t: float) -> Array:
        score = Mixture().score(sde, x, t)
        return -t * score - (x + t**2 * score) / (1 - t)

    expected = x
    for t, end in zip(grid.times, grid.ends, strict=True):
        slope = velocity(expected, t)
        expected = expected + (end - t) * (slope + velocity(expected + (end - t) * slope, end)) / 2
    np.testing.assert_allclose(Mixture().run(sde, table, x), expected, rtol=1e-9, atol=1e-9)


def test_churn_is_limited() -> None:
    """Before a step the noise grows by the fraction churn / steps, but by at most sqrt(2) - 1 and no further than T."""
    sde = VESDE()
    for churn, growth in ((1.0, 0.1), (1e6, np.sqrt(2) - 1)):
        rows = build_table(sde, SolverOptions("heun", 10, grid="karras", churn=churn)).rows
        jumps = [(row.t, rows[i + 1].t) for i, row in enumerate(rows) if row.derive is None]
        before, after = (sde.sigma(np.array(times)) for times in zip(*jumps, strict=True))
        assert after == pytest.approx(np.minimum(before * (1 + growth), sde.sigma_max), rel=1e-9)
        assert len(jumps) == 8  # the first of nine steps starts at T
    assert not any(row.has_noise for row in build_table(sde, SolverOptions("heun", 10, churn=0.0)).rows)


@pytest.mark.parametrize("name", SDE_OF)
def test_heun_matches_the_paper(name: str) -> None:
    """Algorithm 2 of Karras et al. with all its options, in their x / scale and sigma, gives the same states."""
    sde, sigmas = SDE_OF[name], schedule_of(SDE_OF[name]).noise_to_signal
    s_churn, s_tmin, s_tmax, s_noise = 1.0, sigmas[4] * 0.99, sigmas[1] * 1.01, 1.02
    options = {"churn": s_churn, "s_min": s_tmin, "s_max": s_tmax, "s_noise": s_noise}
    table = StepTable.of(rows_of(sde, "heun", **options))
    normals = np.random.default_rng(0).normal(size=(4, len(X)))
    assert [row.t for row in table.rows if row.derive is None] == pytest.approx(schedule_of(sde).times[1:5])

    y, noise = sde.prior_std * X / sde.marginal(sde.T).scale, iter(normals)
    for sigma, after in pairwise(sigmas):
        gamma = min(s_churn / STEPS, np.sqrt(2) - 1) if s_tmin <= sigma <= s_tmax else 0.0
        hat = sigma + gamma * sigma
        if gamma:
            y = y + np.sqrt(hat**2 - sigma**2) * s_noise * next(noise)
        first = slope_in_s(sde, y, hat)
        y = y + (after - hat) * (first + slope_in_s(sde, y + (after - hat) * first, after)) / 2
    end = Mixture().run(sde, table, sde.prior_std * X, normals)
    np.testing.assert_allclose(end, schedule_of(sde).scale[-1] * y, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", SDE_OF)
def test_res_matches_the_paper(name: str) -> None:
    """The exponential Runge-Kutta step of Zhang et al., with c2 = 1/2 and phi functions, gives the same states.

    With y = x / scale the flow is dy/dl = x0 - y.
    """
    sde, schedule, c2 = SDE_OF[name], schedule_of(SDE_OF[name]), 0.5

    def denoised(y: Array, s: float) -> Array:
        return y - s * slope_in_s(sde, y, s)

    y = sde.prior_std * X / schedule.scale[0]
    for s, h in zip(schedule.noise_to_signal[:-1], schedule.h, strict=True):
        first = denoised(y, s)
        second = denoised(np.exp(-c2 * h) * y + c2 * h * phi_1(-c2 * h) * first, s * np.exp(-c2 * h))
        b2 = phi_2(-h) / c2
        y = np.exp(-h) * y + h * ((phi_1(-h) - b2) * first + b2 * second)
    end = Mixture().run(sde, StepTable.of(rows_of(sde, "res")), sde.prior_std * X)
    np.testing.assert_allclose(end, schedule.scale[-1] * y, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", SDE_OF)
def test_multistep_res_is_registered(name: str) -> None:
    """Multistep RES, whose c2 is that of the previous value, is dpmpp_2m_sde's "heun" on the flow."""
    sde, schedule = SDE_OF[name], schedule_of(SDE_OF[name])
    y, values = sde.prior_std * X / schedule.scale[0], []
    for i, h in enumerate(schedule.h):
        values.append(data_prediction(sde, schedule, i, schedule.scale[i] * y))
        b2 = phi_2(-h) / (-schedule.h[i - 1] / h) if i else 0.0
        y = np.exp(-h) * y + h * ((phi_1(-h) - b2) * values[i] + b2 * values[i - 1])
    rows = rows_of(sde, "dpmpp_2m_sde", variant="heun", probability_flow=True)
    end = Mixture().run(sde, StepTable.of(rows), sde.prior_std * X)
    np.testing.assert_allclose(end, schedule.scale[-1] * y, rtol=1e-9, atol=1e-12)


def phi_1(z: float) -> float:
    return float(np.expm1(z) / z)


def phi_2(z: float) -> float:
    return (phi_1(z) - 1) / z


def test_limits_of_churn() -> None:
    """Limits that leave no step churned give the table without churn; those that include all steps change nothing."""
    plain, churned = rows_of(VESDE(), "heun"), rows_of(VESDE(), "heun", churn=1.0)
    assert rows_of(VESDE(), "heun", churn=1.0, s_max=1e-3) == rows_of(VESDE(), "heun", churn=1.0, s_min=1e3) == plain
    assert rows_of(VESDE(), "heun", churn=1.0, s_min=0.0, s_max=1e3, s_noise=1.0) == churned != plain
