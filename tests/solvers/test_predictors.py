# SPDX-License-Identifier: Apache-2.0
"""The predictors of score_sde: moments of runs, order of convergence, cost, and errors."""

from __future__ import annotations

from typing import Any

import pytest

from scoresde_fast.sdes import SDE, VESDE, VPSDE, SubVPSDE
from scoresde_fast.solvers import SOLVERS, SolverOptions, build_table, grids_of
from scoresde_fast.solvers.exact_moments import prior, propagate
from tests.support.toy_solvers import MEAN, SDE_OF, STD, assert_prediction, error_in_moments, order_of, sample

PUBLISHED = {name: entry for name, entry in SOLVERS.items() if entry.published}
CASES = [
    (name, solver, probability_flow)
    for name, sde in SDE_OF.items()
    for solver, entry in PUBLISHED.items()
    for probability_flow in (False, True)
    if isinstance(sde, entry.sdes) and (entry.probability_flow or not probability_flow)
]
IDS = [f"{name}-{solver}-{'flow' if probability_flow else 'sde'}" for name, solver, probability_flow in CASES]


@pytest.mark.statistical
@pytest.mark.parametrize("grid", grids_of(VPSDE()))
@pytest.mark.parametrize(("name", "solver", "probability_flow"), CASES, ids=IDS)
def test_distribution_after_a_run(name: str, solver: str, probability_flow: bool, grid: str, run_seed: int) -> None:
    """20 000 samples of a short run have the mean and standard deviation of the table."""
    sde = SDE_OF[name]
    table = build_table(sde, SolverOptions(solver, 25, grid=grid, probability_flow=probability_flow))
    predicted = propagate(table, sde, (MEAN, STD), prior(sde))
    assert_prediction(sample(sde, table, run_seed, (1, 1, 1)), predicted)


@pytest.mark.parametrize("grid", grids_of(VPSDE()))
@pytest.mark.parametrize(("name", "solver", "probability_flow"), CASES, ids=IDS)
def test_order_of_convergence(name: str, solver: str, probability_flow: bool, grid: str) -> None:
    """The error in mean and standard deviation decreases at the solver's order, within 0.25."""
    sde = SDE_OF[name]
    sizes = (200, 400, 800, 1600)
    errors = []
    for steps in sizes:
        # Without denoising, from the exact distribution at T to close to the data, only the solver's error remains.
        # The published uniform grid ends at 0.  With even steps in the log-SNR, or short ones near the data, the
        # first-order error vanishes close to the data.
        eps = 0.3 if grid in ("logsnr", "beta", "kl_optimal") else 1e-5
        options = SolverOptions(solver, steps, grid=grid, probability_flow=probability_flow, denoise=False, eps=eps)
        errors.append(error_in_moments(sde, options, 0.0 if grid == "uniform" else eps))
    assert order_of(sizes, errors) == pytest.approx(SOLVERS[solver].orders[0], abs=0.25)


def test_nfe_counts_every_evaluation() -> None:
    """Predictor-corrector costs 1 + ``corrector_steps`` evaluations per step, a predictor alone one."""
    assert build_table(VESDE(), SolverOptions("pc", 30)).nfe == 60
    assert build_table(VESDE(), SolverOptions("pc", 30, corrector_steps=3)).nfe == 120
    assert build_table(VPSDE(), SolverOptions("euler_maruyama", 30)).nfe == 30


@pytest.mark.parametrize(
    ("sde", "options", "sentence"),
    [
        (VESDE(), {"solver": "ancestrol"}, "unknown solver 'ancestrol' - did you mean 'ancestral'"),
        (SubVPSDE(), {"solver": "ancestral"}, "'ancestral' is not defined on the SDE 'subvpsde'"),
        (VPSDE(), {"solver": "ancestral", "probability_flow": True}, "no probability-flow form"),
        (VESDE(), {"corrector": "langevine"}, "unknown corrector 'langevine' - did you mean 'langevin'"),
        (VESDE(), {"grid": "quadratik"}, "unknown time grid 'quadratik' - did you mean 'quadratic'"),
        (VESDE(), {"steps": 0}, "steps is 0; it must be an integer of at least 1"),
        (VESDE(), {"corrector_steps": 0}, "corrector_steps is 0"),
        (VESDE(), {"snr": -1.0}, "snr is -1.0"),
        (VESDE(), {"eps": 2.0}, "eps is 2.0"),
        (VPSDE(), {"solver": "pc", "steps": 12}, "take at least 21, or a solver for few steps"),
    ],
)
def test_bad_options_are_refused_when_built(sde: SDE, options: dict[str, Any], sentence: str) -> None:
    """Building the table raises an error that says what is allowed."""
    with pytest.raises(ValueError, match=sentence):
        build_table(sde, SolverOptions(**options))
