# SPDX-License-Identifier: Apache-2.0
"""Runs of the registered fast solvers: moments, options and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.sampler import Sampler
from scoresde_fast.sdes import CLDSDE, SDE, VPSDE
from scoresde_fast.solvers import SolverOptions, build_table
from scoresde_fast.solvers.exact_moments import prior, propagate
from tests.support.chance import assert_moments
from tests.support.toy_solvers import FAST, MEAN, SDE_OF, STD

RESTART = ((0.1, 0.4, 2, 3), (0.3, 1.0, 1, 4))
RUNS: list[tuple[str, dict[str, Any]]] = [
    *[(entry.name, {}) for entry in FAST],
    *[(solver, {"order": order}) for solver, order in (("deis", 4), ("unipc", 3))],
    ("ddim", {"eta": 0.5}),
    ("heun", {"churn": 5.0, "restart": RESTART}),
    ("heun", {"churn": 5.0, "s_min": 0.1, "s_max": 5.0, "s_noise": 1.01}),
    *[(solver, {"restart": RESTART}) for solver in ("unipc", "sa", "dpmpp_2s", "em")],
]
RUN_IDS = ["-".join([solver, *(k if k == "restart" else f"{k}{v}" for k, v in o.items())]) for solver, o in RUNS]


@pytest.mark.statistical
@pytest.mark.parametrize(("solver", "options"), RUNS, ids=RUN_IDS)
@pytest.mark.parametrize("name", SDE_OF)
def test_distribution_after_a_run(name: str, solver: str, options: dict[str, Any], run_seed: int) -> None:
    """20 000 samples of a short run have the table's moments, also with saved states, histories and noise-only rows."""
    sde = SDE_OF[name]
    table = build_table(sde, SolverOptions(solver, 9, grid="karras", **options))
    predicted = propagate(table, sde, (MEAN, STD), prior(sde))
    model = GaussianMixture(sde, [1.0], torch.full((1, 1, 1, 1), MEAN), [STD], is_image=False)
    sampler = Sampler(model, solver=solver, steps=9, grid="karras", batch_size=20_000, run_seed=run_seed, **options)
    assert sampler.table == table
    assert_moments(sampler.sample(range(20_000)), predicted.mean[0], np.sqrt(predicted.covariance[0, 0]))


def test_sampler_takes_the_options() -> None:
    """`Sampler` passes the options to the table, and `describe` records them."""
    model = GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 2, 2))
    options: dict[str, Any] = {"solver": "sa", "steps": 6, "order": 1, "eta": 0.5, "restart": ((0.1, 0.3, 1, 2),)}
    sampler = Sampler(model, **options)
    assert sampler.table == build_table(VPSDE(), SolverOptions(**options))
    assert {name: sampler.describe()[name] for name in options} == options
    churned = Sampler(model, solver="heun", steps=6, churn=2.0).options
    assert isinstance(churned, SolverOptions) and churned.churn == 2.0


@pytest.mark.parametrize(
    ("sde", "options", "sentence"),
    [
        (VPSDE(), {"solver": "dpm++_2m"}, "unknown solver 'dpm\\+\\+_2m' - did you mean 'dpmpp_2m'"),
        (CLDSDE(), {"solver": "dpmpp_2m"}, "'dpmpp_2m' is not defined on the SDE 'cld', only on 'vesde', 'vpsde'"),
        (VPSDE(), {"solver": "unipc", "variant": "bh3"}, "unknown variant of solver 'unipc' 'bh3' - did you"),
        (VPSDE(), {"solver": "dpmpp_2m_sde", "variant": "bh1"}, "'bh1'.*choose from: heun, midpoint"),
        (VPSDE(), {"solver": "deis", "prediction": "noise"}, "prediction is 'noise'; solver 'deis' has no such option"),
        (
            VPSDE(),
            {"solver": "deis", "variable": "log"},
            "unknown variable of solver 'deis' 'log' - did you",
        ),
        (VPSDE(), {"solver": "heun", "lower_order_final": True}, "solver 'heun' has no such option"),
        (VPSDE(), {"solver": "unipc", "order": 4}, "order is 4; solver 'unipc' has the orders 1 to 3"),
        (VPSDE(), {"solver": "dpmpp_2m", "order": 3}, "solver 'dpmpp_2m' has order 2 only"),
        (
            VPSDE(),
            {"solver": "deis", "eta": 0.5},
            "eta is 0.5; solver 'deis' has no such option: .* ddim, dpmpp_2m_sde, dpmpp_3m_sde, er_sde, sa, seeds",
        ),
        (
            VPSDE(),
            {"solver": "ddim", "churn": 1.0},
            "churn is 1.0; solver 'ddim' has no such option: .* choose heun",
        ),
        (VPSDE(), {"solver": "em", "eta": 0.0}, "eta is 0.0; solver 'euler_maruyama' has no such option"),
        (VPSDE(), {"solver": "sa", "eta": -0.5}, "eta is -0.5; it must be a finite number of at least 0"),
        (VPSDE(), {"solver": "heun", "churn": float("nan")}, "churn is nan; it must be a finite number"),
        (VPSDE(), {"solver": "heun", "s_noise": 1.01}, "s_noise is 1.01, but there is no churn: give churn, or"),
        (VPSDE(), {"solver": "heun", "churn": 0.0, "s_min": 0.1}, "s_min is 0.1, but there is no churn: give churn"),
        (VPSDE(), {"solver": "heun", "churn": 1.0, "s_min": -1.0}, "s_min is -1.0; it must be a finite number of at"),
        (VPSDE(), {"solver": "heun", "churn": 1.0, "s_max": float("inf")}, "s_max is inf; it must be a finite number"),
        (
            VPSDE(),
            {"solver": "heun", "churn": 1.0, "s_min": 2.0, "s_max": 1.0},
            "s_min is 2.0, but s_max is 1.0; s_min must be at most s_max",
        ),
        (
            VPSDE(),
            {"solver": "sa", "eta": 1.0, "probability_flow": True},
            "eta is 1.0, but probability_flow=True draws no noise",
        ),
        (VPSDE(), {"solver": "ddim", "eta": 1.5}, "eta is 1.5; solver 'ddim' allows at most 1"),
        (
            VPSDE(),
            {"solver": "ddim", "corrector": "ald"},
            "'ald' cannot be used with solver 'ddim', only with ancestral",
        ),
        (VPSDE(), {"solver": "ddim", "original": True}, "original is True; solver 'ddim' has no such option"),
        (VPSDE(), {"solver": "ddim", "steps": 1}, "steps is 1; it must be an integer of at least 2"),
        (
            VPSDE(),
            {"restart": ((0.3, 0.1, 1, 2),)},
            "from t_min=0.3 to t_max=0.1; it needs eps < t_min < t_max <= 1, where eps is 0.001",
        ),
        (VPSDE(), {"restart": ((1e-4, 0.1, 1, 2),)}, "t_min=0.0001 to t_max=0.1; it needs .*, where eps is 0.001"),
        (VPSDE(), {"restart": ((0.1, 1.5, 1, 2),)}, "t_max=1.5; it needs eps < t_min < t_max <= 1, where eps is 0.001"),
        (
            VPSDE(),
            {"restart": ((0.1, 0.3, 0, 2),)},
            "restart's number of times is 0; it must be an integer of at least 1",
        ),
        (VPSDE(), {"restart": ((0.1, 0.3, 1, 2.5),)}, "restart's number of steps is 2.5; it must be an integer"),
        (VPSDE(), {"restart": ((0.1, 0.3, 1),)}, "it must be four numbers, \\(t_min, t_max, times, steps\\)"),
        (VPSDE(), {"restart": (0.1, 0.3, 1, 2)}, "restart has the interval 0.1; it must be four numbers"),
        (VPSDE(), {"steps": 2, "restart": RESTART}, "2 steps cannot pass through 2 given times; take more steps"),
    ],
)
def test_bad_options_are_refused_when_built(sde: SDE, options: dict[str, Any], sentence: str) -> None:
    """Building the table raises an error that says what is allowed."""
    with pytest.raises(ValueError, match=sentence):
        build_table(sde, SolverOptions(**{"steps": 20, "solver": "em", **options}))
