# SPDX-License-Identifier: Apache-2.0
"""score_sde's solvers do what their tables say, and their tables converge to the data at the solver's order."""

from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor, arange

from scoresde_fast.loop.evaluate import PlainNetwork
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import SDE, VESDE, VPSDE, ScalarSDE, SubVPSDE
from scoresde_fast.solvers import GRIDS, SOLVERS, Row, SolverOptions, StepTable, build_table
from scoresde_fast.solvers.moments import Gaussian, marginal, prior, propagate
from tests.support import chance

MEAN, STD = 0.3, 0.5
SDE_OF: dict[str, ScalarSDE] = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE()}

PUBLISHED = {name: found for name, found in SOLVERS.items() if found.published}

CASES = [
    (name, solver, flow)
    for name, sde in SDE_OF.items()
    for solver, found in PUBLISHED.items()
    for flow in (False, True)
    if isinstance(sde, found.sdes) and (found.probability_flow or not flow)
]
IDS = [f"{name}-{solver}-{'flow' if flow else 'sde'}" for name, solver, flow in CASES]
CORRECTED = [
    (name, solver, corrector)
    for name, sde in SDE_OF.items()
    for solver, found in PUBLISHED.items()
    for corrector in ("langevin", "ald")
    if isinstance(sde, found.sdes)
]


def sample(sde: SDE, table: StepTable, run_seed: int, shape: tuple[int, ...]) -> Tensor:
    """20 000 samples of Gaussian data, with the batch's Langevin norms."""
    model = GaussianMixture.gaussian(sde, MEAN, STD, shape)
    noise = Noise(run_seed, arange(20_000))
    labels, scale = (f(table.times) for f in (model.parametrisation.labels, model.parametrisation.output_scale))
    prior = model.prior(noise.normal(0, shape))
    program = Program.of(table, labels, scale, "cpu")
    evaluate, backends = PlainNetwork(model.network, program.labels), StepBackends.choose("cpu")
    return Loop(program, evaluate, backends, run_seed, langevin_norm="batch").run(prior, noise)


def assert_moments(x: Tensor, predicted: Gaussian) -> None:
    """Mean and deviation are those predicted."""
    chance.assert_moments(x, predicted.mean[0], np.sqrt(predicted.covariance[0, 0]))


@pytest.mark.statistical
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("name", "solver", "flow"), CASES, ids=IDS)
def test_distribution_after_a_run(name: str, solver: str, flow: bool, grid: str, run_seed: int) -> None:
    """20 000 samples of a short run have the mean and variance that the table predicts."""
    sde = SDE_OF[name]
    table = build_table(sde, SolverOptions(solver, 25, grid=grid, probability_flow=flow))
    predicted = propagate(table, sde, (MEAN, STD), prior(sde))
    assert_moments(sample(sde, table, run_seed, (1, 1, 1)), predicted)


@pytest.mark.statistical
@pytest.mark.parametrize(("name", "solver", "corrector"), CORRECTED, ids=["-".join(case) for case in CORRECTED])
def test_distribution_after_a_corrected_run(name: str, solver: str, corrector: str, run_seed: int) -> None:
    """The same with two corrector steps at every time: 20 000 samples of four elements, the batch's norms."""
    sde = SDE_OF[name]
    table = build_table(sde, SolverOptions(solver, 25, corrector, corrector_steps=2))
    predicted = propagate(table, sde, (MEAN, STD), prior(sde))
    assert_moments(sample(sde, table, run_seed, (1, 2, 2)), predicted)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("name", "solver", "flow"), CASES, ids=IDS)
def test_order_of_convergence(name: str, solver: str, flow: bool, grid: str) -> None:
    """The error in mean and deviation falls with the step size at the solver's order, within 0.25."""
    sde = SDE_OF[name]
    sizes = (200, 400, 800, 1600)
    errors = []
    for steps in sizes:
        # No denoising, a start without error, and an end so close to the data that only the solver's error is seen;
        # the published uniform grid covers a time of T, and so ends at 0.  On even steps in the log-SNR the first-order
        # error itself vanishes towards the data.
        eps = 0.3 if grid == "logsnr" else 1e-5
        table = build_table(sde, SolverOptions(solver, steps, grid=grid, probability_flow=flow, denoise=False, eps=eps))
        got = propagate(table, sde, (MEAN, STD), marginal(sde, sde.T, MEAN, STD))
        wanted = marginal(sde, 0.0 if grid == "uniform" else eps, MEAN, STD)
        deviations = (np.sqrt(gaussian.covariance[0, 0]) for gaussian in (got, wanted))
        errors.append(abs(got.mean[0] - wanted.mean[0]) + abs(np.subtract(*deviations)))
    slope = -np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert slope == pytest.approx(SOLVERS[solver].orders[0], abs=0.25)


@pytest.mark.statistical
def test_loop_keeps_saved_state_and_history(run_seed: int) -> None:
    """Rows that use the saved state, older outputs and no network do in the loop what `propagate` says."""
    sde = VPSDE()
    table = StepTable.of(
        [
            Row(0.9, save=True, state=0.9, outputs=(0.2,), noise=0.1),
            Row(0.8, derive=(0.3, -0.5), state=0.5, saved=0.4, outputs=(0.3, -0.1)),
            Row(0.8, derive=None, state=0.8, saved=-0.2, outputs=(0.1, 0.2), noise=0.3, save=True),
            Row(0.6, derive=(0.1, 0.2), state=0.7, saved=0.1, outputs=(0.4, 0.3, -0.2)),
            Row(0.5, state=0.6, saved=-0.3, outputs=(0.1, 0.1, 0.2, 0.4), noise=0.05),
        ]
    )
    assert (table.nfe, table.draws) == (4, (1, None, 2, None, 3))
    predicted = propagate(table, sde, (MEAN, STD), prior(sde))
    assert_moments(sample(sde, table, run_seed, (1, 2, 2)), predicted)


def test_nfe_counts_every_evaluation() -> None:
    """Predictor-corrector costs (1 + corrector steps) evaluations a step, a bare predictor one."""
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
        (VESDE(), {"steps": 0}, "steps is 0; it must be a whole number of at least 1"),
        (VESDE(), {"corrector_steps": 0}, "corrector_steps is 0"),
        (VESDE(), {"snr": -1.0}, "snr is -1.0"),
        (VESDE(), {"eps": 2.0}, "eps is 2.0"),
        (VPSDE(), {"solver": "pc", "steps": 12}, "take more steps"),
    ],
)
def test_bad_options_are_refused_when_built(sde: SDE, options: dict[str, object], sentence: str) -> None:
    """One clear sentence, before any step is taken."""
    with pytest.raises(ValueError, match=sentence):
        build_table(sde, SolverOptions(**options))
