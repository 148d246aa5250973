# SPDX-License-Identifier: Apache-2.0
"""Solvers of CLD: orders of convergence, moments of runs, denoising, and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from scoresde_fast.loop.program import Program
from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE
from scoresde_fast.solvers import SolverOptions, StepTable, build_table, grids_of
from scoresde_fast.solvers.exact_moments import marginal, prior, propagate
from tests.support.chance import assert_moments
from tests.support.cld import CONSTANT, DAMPINGS, MEAN, STD, run
from tests.support.toy_solvers import order_of

ORDERS = [
    ("em", False, None, 1),
    ("em", True, None, 1),
    ("sscs", False, None, 1),
    *[("gddim", True, order, order) for order in (1, 2, 3, 4)],
    *[("gddim", False, order, min(order, 2)) for order in (1, 2, 3, 4)],
]


def eta_of(solver: str, probability_flow: bool) -> float | None:
    """Return the ``eta`` of the noisy form of "gddim"; None for other runs."""
    return 1.0 if solver == "gddim" and not probability_flow else None


@pytest.mark.parametrize(
    ("solver", "probability_flow", "order", "claimed"),
    ORDERS,
    ids=[f"{s}-{'flow' if f else 'sde'}-{o or 1}" for s, f, o, _ in ORDERS],
)
@pytest.mark.parametrize("damping", ["critical", "under"])
def test_order_of_convergence(
    solver: str, probability_flow: bool, order: int | None, claimed: int, damping: str
) -> None:
    """The error in mean and covariance decreases at the solver's order, within 0.25."""
    sde = CLDSDE(friction=DAMPINGS[damping])
    if damping == "under" and order is not None:
        with pytest.raises(ValueError, match="under-damped"):
            build_table(sde, SolverOptions(solver, 200, order=order))
        return
    sizes = (200, 400, 800)
    errors = []
    for steps in sizes:
        options = SolverOptions(
            solver,
            steps,
            grid="quadratic",
            probability_flow=probability_flow,
            order=order,
            denoise=False,
            eps=1e-3,
            eta=eta_of(solver, probability_flow),
        )
        got = propagate(build_table(sde, options), sde, (MEAN, STD), marginal(sde, sde.T, MEAN, STD))
        wanted = marginal(sde, 1e-3, MEAN, STD)
        errors.append(np.abs(got.mean - wanted.mean).max() + np.abs(got.covariance - wanted.covariance).max())
    assert order_of(sizes, errors) == pytest.approx(claimed, abs=0.25)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("solver", "probability_flow", "order", "grid"),
    # With order 4 the first steps of "beta", which grow fast, amplify the rounding of float32 in the velocity.
    [(*case[:3], grid) for case in ORDERS for grid in grids_of(CONSTANT) if (case[2], grid) != (4, "beta")],
)
def test_distribution_after_a_run(
    solver: str, probability_flow: bool, order: int | None, grid: str, run_seed: int
) -> None:
    """20 000 samples of a short run with the fused kernels have the mean and variances of the table."""
    sde = CONSTANT
    table = build_table(
        sde,
        SolverOptions(
            solver, 25, grid=grid, probability_flow=probability_flow, order=order, eta=eta_of(solver, probability_flow)
        ),
    )
    predicted = propagate(table, sde, (MEAN, STD), prior(sde))
    model = GaussianMixture.gaussian(sde, MEAN, STD, (1, 1, 1))
    u = model.prior(Noise(run_seed, torch.arange(20_000)).normal(0, model.state_shape))
    values = run(model, table, u, seed=run_seed).flatten(1)
    for part, variance in enumerate(np.diag(predicted.covariance)):
        assert_moments(values[:, part], predicted.mean[part], np.sqrt(variance))


@pytest.mark.parametrize("solver", ["em", "sscs", "gddim"])
def test_denoising_is_a_posterior_mean_or_an_euler_mean(solver: str) -> None:
    """gDDIM ends with E[u(0) | u(eps)], exact for Gaussian data; the others with the mean of an Euler step of eps."""
    table = build_table(CONSTANT, SolverOptions(solver, 5, grid="quadratic"))
    before = propagate(StepTable.of(table.rows[:-1]), CONSTANT, (MEAN, STD), prior(CONSTANT))
    after = propagate(table, CONSTANT, (MEAN, STD), prior(CONSTANT))
    assert table.nfe == 5 and table.draws[-1] is None
    exact = marginal(CONSTANT, 1e-3, MEAN, STD)
    if solver == "gddim":
        joint = CONSTANT.propagator(0.0, 1e-3) @ np.diag([STD**2, CONSTANT.gamma * CONSTANT.mass])
        gain = joint.T @ np.linalg.inv(exact.covariance)
        wanted = np.array([MEAN, 0.0]) + gain @ (before.mean - exact.mean)
        assert np.allclose(after.mean, wanted, rtol=1e-9, atol=1e-12)
    else:
        drift, force = CONSTANT.drift(1e-3), CONSTANT.diffusion(1e-3) ** 2
        score = -np.linalg.inv(exact.covariance)[1] @ (before.mean - exact.mean)
        wanted = before.mean - 1e-3 * (drift @ before.mean - np.array([0.0, force * score]))
        assert np.allclose(after.mean, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", ["em", "sscs", "gddim"])
@pytest.mark.parametrize("grid", ["uniform", "quadratic", "sqrt"])
def test_ten_thousand_steps_are_finite(solver: str, grid: str) -> None:
    """Tables of 10 000 steps down to t = 1e-5 are finite, in float64 and in the float32 of the kernels."""
    table = build_table(CONSTANT, SolverOptions(solver, 10_000, grid=grid, eps=1e-5))
    model = GaussianMixture.gaussian(CONSTANT, MEAN, STD, (1, 1, 1))
    assert Program.of_model(model, table, "cpu").device_table.coefficients.isfinite().all()
    noisy = [row for row in table.rows if row.has_noise]
    if solver == "sscs":
        assert all((np.diag(row.noise).astype(np.float32) > 0).all() for row in noisy)


@pytest.mark.parametrize(
    ("sde", "options", "sentence"),
    [
        (VPSDE(), {"solver": "sscs"}, "'sscs' is not defined on the SDE 'vpsde', only on 'cld'"),
        (VESDE(), {"solver": "gddim"}, "'gddim' is not defined on the SDE 'vesde', only on 'cld'"),
        (CONSTANT, {"solver": "ancestral"}, "on 'cld' choose from: euler_maruyama, gddim, sscs"),
        (CONSTANT, {"solver": "pc"}, "is not defined on the SDE 'cld'"),
        (CONSTANT, {"solver": "sscs", "corrector": "langevin"}, "corrector 'langevin' is not defined on the SDE 'cld'"),
        (CONSTANT, {"solver": "sscs", "probability_flow": True}, "no probability-flow form"),
        (CONSTANT, {"solver": "sscs", "steps": 1}, "steps is 1; it must be an integer of at least 2"),
        (CONSTANT, {"solver": "sscs", "order": 2}, "solver 'sscs' has order 1 only"),
        (CONSTANT, {"solver": "gddim", "eta": 0.5}, "eta is 0.5; solver 'gddim' allows 0 .* or 1"),
        (CONSTANT, {"solver": "gddim", "order": 5}, "order is 5; solver 'gddim' has the orders 1 to 4"),
        (
            CONSTANT,
            {"solver": "em", "original": True},
            "original is True; solver 'euler_maruyama' has no such option: .* choose sscs",
        ),
        (CLDSDE(objective="dsm"), {"solver": "gddim"}, "use a model trained with 'hsm', or solver 'em' or 'sscs'"),
        (CLDSDE(friction=0.4), {"solver": "gddim"}, "friction 0.4 is under-damped"),
    ],
)
def test_bad_options_are_refused_when_built(sde: SDE, options: dict[str, Any], sentence: str) -> None:
    """Building the table raises an error that says what is allowed."""
    with pytest.raises(ValueError, match=sentence):
        build_table(sde, SolverOptions(**{"steps": 20, **options}))
