# SPDX-License-Identifier: Apache-2.0
"""Runs of the fast solvers: what the loop makes of their tables, Restart around them, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.sampler import Sampler
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE
from scoresde_fast.solvers import SolverOptions, build_table
from scoresde_fast.solvers.moments import prior, propagate
from tests.solvers.test_orders import FAST
from tests.solvers.test_score_sde import MEAN, SDE_OF, STD
from tests.support.chance import assert_moments

RESTART = ((0.1, 0.4, 2, 3), (0.3, 1.0, 1, 4))
RUNS: list[tuple[str, dict[str, Any]]] = [
    *[(found.name, {}) for found in FAST],
    *[(solver, {"order": order}) for solver, order in (("deis", 4), ("unipc", 3))],
    ("ddim", {"eta": 0.5}),
    ("heun", {"churn": 5.0, "restart": RESTART}),
    *[(solver, {"restart": RESTART}) for solver in ("unipc", "sa", "dpmpp_2s", "em")],
]
RUN_IDS = ["-".join([solver, *(f"{k}{'' if k == 'restart' else v}" for k, v in o.items())]) for solver, o in RUNS]


@pytest.mark.statistical
@pytest.mark.parametrize(("solver", "options"), RUNS, ids=RUN_IDS)
@pytest.mark.parametrize("name", SDE_OF)
def test_distribution_after_a_run(name: str, solver: str, options: dict[str, Any], run_seed: int) -> None:
    """20 000 samples of a short run, saved states, histories and rows of noise alone, have the table's moments."""
    sde = SDE_OF[name]
    table = build_table(sde, SolverOptions(solver, 9, grid="karras", **options))
    predicted = propagate(table, sde, (MEAN, STD), prior(sde))
    model = GaussianMixture(sde, [1.0], torch.full((1, 1, 1, 1), MEAN), [STD], is_image=False)
    sampler = Sampler(model, solver=solver, steps=9, grid="karras", batch_size=20_000, run_seed=run_seed, **options)
    assert sampler.table == table
    assert_moments(sampler.sample(range(20_000)), predicted.mean[0], np.sqrt(predicted.covariance[0, 0]))


def test_restart_goes_forward_and_back() -> None:
    """At each t_min the run jumps to t_max and returns, so often and in so many steps; the rest is as without."""
    table = build_table(VPSDE(), SolverOptions("ddim", 9, grid="karras", restart=RESTART))
    jumps = [row.t for row in table.rows if row.derive is None]
    assert jumps == [0.3, 0.1, 0.1]
    assert table.nfe == 9 + 1 * 4 + 2 * 3
    after = [later.t for row, later in zip(table.rows, table.rows[1:], strict=False) if row.derive is None]
    assert after == [1.0, 0.4, 0.4]
    assert sum(draw is not None for draw in table.draws) == 3


def test_a_jump_is_the_forward_kernel() -> None:
    """The row without an evaluation has the scale and deviation of x(t_max) | x(t_min)."""
    for sde in SDE_OF.values():
        rows = build_table(sde, SolverOptions("heun", 6, restart=((0.2, 0.7, 1, 2),))).rows
        (jump,) = [row for row in rows if row.derive is None]
        start, end = sde.marginal(0.2), sde.marginal(0.7)
        scale = end.scale / start.scale
        assert (jump.state, jump.noise) == pytest.approx((scale, np.sqrt(end.std**2 - (scale * start.std) ** 2)))


def test_restart_wipes_out_errors() -> None:
    """On Gaussian data an interval brings a coarse DDIM run nearer to the exact deviation than it was."""

    def error(restart: tuple[tuple[float, float, int, int], ...] | None) -> float:
        options = SolverOptions("ddim", 8, grid="karras", restart=restart, denoise=False)
        variance = propagate(build_table(VPSDE(), options), VPSDE(), (MEAN, STD), prior(VPSDE())).covariance[0, 0]
        return float(abs(variance - STD**2))

    assert error(((0.01, 0.4, 3, 12),)) < 0.5 * error(None)


def test_churn_is_limited() -> None:
    """A step's noise grows by churn / steps, by sqrt(2) - 1 at most, and never to a time beyond T."""
    sde = VESDE()
    for churn, growth in ((1.0, 0.1), (1e6, np.sqrt(2) - 1)):
        rows = build_table(sde, SolverOptions("heun", 10, grid="karras", churn=churn)).rows
        jumps = [(row.t, rows[i + 1].t) for i, row in enumerate(rows) if row.derive is None]
        before, after = (sde.sigma(np.array(times)) for times in zip(*jumps, strict=True))
        assert after == pytest.approx(np.minimum(before * (1 + growth), sde.sigma_max), rel=1e-9)
        assert len(jumps) == 8  # of nine steps the first begins at T
    assert not any(row.has_noise for row in build_table(sde, SolverOptions("heun", 10, churn=0.0)).rows)


def test_sampler_takes_the_options() -> None:
    """The options go from the sampler to the table, and are told by `describe`."""
    model = GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 2, 2))
    options = {"solver": "sa", "steps": 6, "order": 1, "eta": 0.5, "restart": ((0.1, 0.3, 1, 2),)}
    sampler = Sampler(model, **options)
    assert sampler.table == build_table(VPSDE(), SolverOptions(**options))
    assert {name: sampler.describe()[name] for name in options} == options
    assert Sampler(model, solver="heun", steps=6, churn=2.0).options.churn == 2.0


def test_restart_in_words() -> None:
    """Text is read, one interval or several; anything else is refused with an example."""
    assert SolverOptions(restart="0.1:0.3:2:5").restart == ((0.1, 0.3, 2, 5),)
    assert SolverOptions(restart="0.1:0.3:2:5,1e-2:0.2:1:3").restart == ((0.1, 0.3, 2, 5), (0.01, 0.2, 1, 3))
    for text in ("0.1:0.3:2", "0.1:0.3:2.5:5", "", "a:b:c:d"):
        with pytest.raises(ValueError, match="it is T_MIN:T_MAX:TIMES:STEPS, as in"):
            SolverOptions(restart=text)


@pytest.mark.parametrize(
    ("sde", "options", "sentence"),
    [
        (VPSDE(), {"solver": "dpm++_2m"}, "unknown solver 'dpm\\+\\+_2m' - did you mean 'dpmpp_2m'"),
        (CLDSDE(), {"solver": "dpmpp_2m"}, "'dpmpp_2m' is not defined on the SDE 'cld', only on 'vesde', 'vpsde'"),
        (VPSDE(), {"solver": "unipc", "order": 4}, "order is 4; solver 'unipc' has the orders 1 to 3"),
        (VPSDE(), {"solver": "dpmpp_2m", "order": 3}, "solver 'dpmpp_2m' has order 2 alone"),
        (VPSDE(), {"solver": "deis", "eta": 0.5}, "eta is 0.5; solver 'deis' has none: .* ddim, dpmpp_2m_sde, sa"),
        (
            VPSDE(),
            {"solver": "ddim", "churn": 1.0},
            "churn is 1.0; solver 'ddim' has none: .* choose heun",
        ),
        (VPSDE(), {"solver": "em", "eta": 0.0}, "eta is 0.0; solver 'euler_maruyama' has none"),
        (VPSDE(), {"solver": "sa", "eta": -0.5}, "eta is -0.5; it must be a finite number of at least 0"),
        (VPSDE(), {"solver": "heun", "churn": float("nan")}, "churn is nan; it must be a finite number"),
        (
            VPSDE(),
            {"solver": "sa", "eta": 1.0, "probability_flow": True},
            "eta is 1.0, but probability_flow=True draws no noise",
        ),
        (VPSDE(), {"solver": "ddim", "eta": 1.5}, "eta is 1.5; of solver 'ddim' it is at most 1"),
        (VPSDE(), {"solver": "ddim", "corrector": "ald"}, "'ald' does not go with solver 'ddim', only with ancestral"),
        (VPSDE(), {"solver": "ddim", "original": True}, "original is True; solver 'ddim' has none"),
        (VPSDE(), {"solver": "ddim", "steps": 1}, "steps is 1; it must be a whole number of at least 2"),
        (VPSDE(), {"restart": ((0.3, 0.1, 1, 2),)}, "from t_min=0.3 to t_max=0.1; these must rise, above eps = 0.001"),
        (VPSDE(), {"restart": ((1e-4, 0.1, 1, 2),)}, "t_min=0.0001 to t_max=0.1; these must rise, above eps = 0.001"),
        (VPSDE(), {"restart": ((0.1, 1.5, 1, 2),)}, "t_max=1.5; these must rise, above eps = 0.001 and up to 1"),
        (VPSDE(), {"restart": ((0.1, 0.3, 0, 2),)}, "restart has times=0; it must be a whole number of at least 1"),
        (VPSDE(), {"restart": ((0.1, 0.3, 1, 2.5),)}, "restart has steps=2.5; it must be a whole number"),
        (VPSDE(), {"restart": ((0.1, 0.3, 1),)}, "each is four numbers, \\(t_min, t_max, times, steps\\)"),
        (VPSDE(), {"restart": (0.1, 0.3, 1, 2)}, "restart has the interval 0.1; each is four numbers"),
        (VPSDE(), {"steps": 2, "restart": RESTART}, "2 steps cannot stop at 2 times on the way; take more steps"),
    ],
)
def test_bad_options_are_refused_when_built(sde: SDE, options: dict[str, Any], sentence: str) -> None:
    """One clear sentence, before any step is taken."""
    with pytest.raises(ValueError, match=sentence):
        build_table(sde, SolverOptions(**{"steps": 20, "solver": "em", **options}))
