# SPDX-License-Identifier: Apache-2.0
"""Solver steps and whole runs agree with those recorded from score_sde."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from scoresde_fast.loop.evaluator import PlainNetwork
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.noise import Noise
from scoresde_fast.ops import affine_step, langevin
from scoresde_fast.ops.step_table import CONTROL
from scoresde_fast.sdes import SDE, VPSDE
from scoresde_fast.solvers import SOLVERS, SolverOptions, StepTable, TimeGrid, build_table
from scoresde_fast.solvers.correctors import CORRECTORS
from scoresde_fast.solvers.options import Norm
from tests.support.golden import assert_close
from tests.support.toy_solvers import SDE_OF

N = 1000


@pytest.fixture(scope="module")
def steps(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "score_sde_steps.npz") as archive:
        return dict(archive)


def run_recorded(sde: SDE, table: StepTable, x: Tensor, draws: list[np.ndarray], norm: Norm = "batch") -> Tensor:
    """Run the loop on the reference backend with the recorded normal fields, the prior first."""

    def recorded(state: Tensor, _ids: Tensor, _seed: int, control: Tensor) -> Tensor:
        return torch.from_numpy(draws[int(control[CONTROL.draw])]).to(state.dtype)

    model = GaussianMixture.gaussian(sde, 0.3, 0.5, x.shape[1:])
    backends = StepBackends.choose("cpu", "reference")
    noise = Noise(0, torch.arange(len(x)))
    with ExitStack() as stack:
        for operation in (affine_step, langevin):
            stack.enter_context(patch.object(operation, "row_noise", recorded))
        program = Program.of_model(model, table, "cpu")
        return Loop(program, PlainNetwork(model.network, program.labels), backends, langevin_norm=norm).run(x, noise)


def one_time(t: float) -> TimeGrid:
    """Return the published grid of N steps, reduced to the single time ``t``."""

    class OneOfMany(TimeGrid):
        def __len__(self) -> int:
            return N

    return OneOfMany(np.array([t]), np.array([1 / N]), published=True)


SINGLE = [
    (name, solver, probability_flow)
    for name, sde in SDE_OF.items()
    for solver in ("euler_maruyama", "reverse_diffusion", "ancestral")
    for probability_flow in (False, True)
    if isinstance(sde, SOLVERS[solver].sdes)
    and (solver, probability_flow) not in {("euler_maruyama", True), ("ancestral", True)}
]


@pytest.mark.parametrize(
    ("name", "solver", "probability_flow"), SINGLE, ids=[f"{n}-{s}-{'flow' if f else 'sde'}" for n, s, f in SINGLE]
)
def test_predictor_step(steps: dict[str, np.ndarray], name: str, solver: str, probability_flow: bool) -> None:
    """One predictor step per sample at its own time agrees to 1e-5, with and without noise."""
    sde = SDE_OF[name]
    key = f"{name}/{solver.replace('ancestral', 'ancestral_sampling')}_pf{int(probability_flow)}"
    for i, t in enumerate(steps[f"{name}/t"].astype(np.float64)):
        x, z = torch.from_numpy(steps[f"{name}/x"][i : i + 1]), steps[f"{key}/z"][i : i + 1]
        rows = SOLVERS[solver].fill(sde, one_time(t), probability_flow=probability_flow)
        next_x = run_recorded(sde, StepTable.of(rows), x, [z, z])
        assert_close(next_x, steps[f"{key}/x_next"][i : i + 1], 1e-5)
        assert_close(next_x - rows[0].noise * torch.from_numpy(z), steps[f"{key}/x_mean"][i : i + 1], 1e-5)


@pytest.mark.parametrize("corrector", ["langevin", "ald"])
@pytest.mark.parametrize("name", ["ve", "vp"])
def test_corrector_steps(steps: dict[str, np.ndarray], name: str, corrector: str) -> None:
    """Two corrector steps with norms over the batch agree to 1e-5, with each sample at its own time."""
    sde, key = SDE_OF[name], f"{name}/{corrector}_snr0.16_n2"
    times = steps[f"{name}/t"].astype(np.float64)
    x = torch.from_numpy(steps[f"{name}/x"])
    model = GaussianMixture.gaussian(sde, 0.3, 0.5, x.shape[1:])
    rows = [CORRECTORS[corrector].fill(sde, one_time(t), 0.16)[0] for t in times]
    for draw in ("z0", "z1"):
        score, z = model.score(x, torch.from_numpy(times)), torch.from_numpy(steps[f"{key}/{draw}"])
        if corrector == "langevin":
            # Unlike in a run, samples have different times: step sizes per sample, with norms over the batch.
            ratio = z.flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean()
            size = torch.tensor([row.langevin for row in rows])[:, None, None, None] * ratio**2
            mean, noise = x + size * score, (2 * size).sqrt()
        else:
            size = torch.tensor([row.outputs[0] for row in rows])[:, None, None, None]
            mean, noise = x + size * score, torch.tensor([row.noise for row in rows])[:, None, None, None]
        x = (mean + noise * z).float()
    assert_close(x, steps[f"{key}/x_next"], 1e-5)
    assert_close(mean, steps[f"{key}/x_mean"], 1e-5)


RUNS = {
    "ve_reverse_diffusion_langevin": SolverOptions("reverse_diffusion", 10, "langevin"),
    "vp_euler_maruyama_none": SolverOptions("euler_maruyama", 10),
    "subvp_euler_maruyama_none": SolverOptions("euler_maruyama", 10),
    "ve_ancestral_sampling_ald": SolverOptions("ancestral", 10, "ald"),
}


@pytest.mark.parametrize("name", RUNS)
def test_whole_run(steps: dict[str, np.ndarray], name: str) -> None:
    """A run of ten steps through the loop with the recorded noise agrees to 1e-5."""
    sde = SDE_OF[name.split("_")[0]]
    key = f"pc/{name}_N10"
    table = build_table(sde, RUNS[name])
    prior, draws = steps[f"{key}/prior_z"], list(steps[f"{key}/z"])
    out = run_recorded(sde, table, torch.from_numpy(prior) * sde.prior_std, [prior, *draws])
    assert_close(out, steps[f"{key}/out"], 1e-5)


def test_too_few_ancestral_steps_are_refused(steps: dict[str, np.ndarray]) -> None:
    """Ten ancestral steps on VP give NaN in the official code; here building the table raises an error."""
    assert np.isnan(steps["pc/vp_ancestral_sampling_none_N10/out"]).any()
    with pytest.raises(ValueError, match="take at least 21"):
        build_table(VPSDE(), SolverOptions("ancestral", 10))
