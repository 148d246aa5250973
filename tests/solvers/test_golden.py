# SPDX-License-Identifier: Apache-2.0
"""SDE functions, single solver steps and whole runs agree with those recorded from the original program."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from scoresde_fast.loop.evaluate import PlainNetwork
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.noise import Noise
from scoresde_fast.ops import affine_step, langevin_norms, langevin_step
from scoresde_fast.ops.step_table import CONTROL
from scoresde_fast.sdes import SDE, SDES, VESDE, VPSDE, SubVPSDE
from scoresde_fast.solvers import SOLVERS, SolverOptions, StepTable, TimeGrid, build_table
from scoresde_fast.solvers.correctors import CORRECTORS

SDE_OF = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE()}
N = 1000


@pytest.fixture(scope="module")
def steps(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "score_sde_steps.npz") as archive:
        return dict(archive)


def column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values)[:, None, None, None]


def assert_close(actual: object, expected: np.ndarray, relative: float, *operands: np.ndarray) -> None:
    """Within ``relative`` of the largest value, or of the largest of the ``operands`` that the original's float32
    subtracted to get it: no more of a difference was ever there."""
    actual = np.asarray(actual, dtype=np.float64)
    scale = max(np.abs(values).max() for values in (expected, *operands))
    assert np.abs(actual - expected).max() <= relative * scale


def recorded_score(sde: SDE, x: np.ndarray, t: np.ndarray) -> np.ndarray:
    model = GaussianMixture.gaussian(sde, 0.3, 0.5, x.shape[1:])
    return model.score(torch.from_numpy(x).double(), torch.from_numpy(t)).numpy()


@pytest.mark.parametrize("name", SDE_OF)
def test_sde_functions(steps: dict[str, np.ndarray], name: str) -> None:
    """Score, marginal, drift, diffusion, discretisation and prior density, to 1e-6."""
    sde, x, t = SDE_OF[name], steps[f"{name}/x"], steps[f"{name}/t"].astype(np.float64)
    scale, std = sde.marginal(t)
    drift, diffusion = sde.discretise(t, N)
    assert_close(recorded_score(sde, x, t), steps[f"{name}/score"], 1e-6)
    assert_close(column(scale) * x, steps[f"{name}/marginal_mean"], 1e-6)
    assert_close(std, steps[f"{name}/marginal_std"], 1e-6)
    assert_close(column(sde.drift(t)) * x, steps[f"{name}/drift"], 1e-6)
    assert_close(sde.diffusion(t), steps[f"{name}/diffusion"], 1e-6)
    assert_close(column(drift) * x, steps[f"{name}/disc_f"], 1e-6, x)
    # On VE it is the root of a difference of squared noise levels, on VP that difference is exact.
    levels = sde.marginal(t).std ** 2 if name == "ve" else 0 * t
    assert_close(diffusion**2, steps[f"{name}/disc_G"].astype(np.float64) ** 2, 1e-6, levels)
    assert_close(sde.prior_log_density(x), steps[f"{name}/prior_logp"], 1e-6)


@pytest.mark.parametrize("flow", [False, True], ids=["sde", "flow"])
@pytest.mark.parametrize("name", SDE_OF)
def test_reverse_functions(steps: dict[str, np.ndarray], name: str, flow: bool) -> None:
    """The reverse SDE and the probability flow, continuous and discretised, to 1e-6."""
    sde, x, t = SDE_OF[name], steps[f"{name}/x"], steps[f"{name}/t"].astype(np.float64)
    score = recorded_score(sde, x, t)
    key = f"{name}/reverse_pf{int(flow)}"
    levels = sde.marginal(t).std ** 2 if name == "ve" else 0 * t
    for reverse, drift_key, diffusion_key, operands in (
        (sde.reverse(t, probability_flow=flow), "drift", "diffusion", []),
        (sde.reverse_discretise(t, N, probability_flow=flow), "disc_f", "disc_G", [x, column(levels) * score]),
    ):
        terms = column(reverse.drift_x) * x, column(reverse.drift_score) * score
        assert_close(terms[0] + terms[1], steps[f"{key}/{drift_key}"], 1e-6, *terms, *operands)
        expected = np.broadcast_to(steps[f"{key}/{diffusion_key}"], t.shape).astype(np.float64)
        assert_close(reverse.diffusion**2, expected**2, 1e-6, levels)


def run_recorded(sde: SDE, table: StepTable, x: Tensor, draws: list[np.ndarray], norm: str = "batch") -> Tensor:
    """A run of the loop on the reference backend, with the normal fields that the original drew, the prior first."""

    def recorded(state: Tensor, _ids: Tensor, _seed: int, control: Tensor) -> Tensor:
        return torch.from_numpy(draws[int(control[CONTROL.draw])]).to(state.dtype)

    model = GaussianMixture.gaussian(sde, 0.3, 0.5, x.shape[1:])
    labels, scale = (f(table.times) for f in (model.parametrisation.labels, model.parametrisation.output_scale))
    backends = StepBackends.choose("cpu", "reference")
    noise = Noise(0, torch.arange(len(x)))
    with ExitStack() as stack:
        for operation in (affine_step, langevin_norms, langevin_step):
            stack.enter_context(patch.object(operation, "row_noise", recorded))
        program = Program.of(table, labels, scale, "cpu")
        return Loop(program, PlainNetwork(model.network, program.labels), backends, langevin_norm=norm).run(x, noise)


def one_time(t: float) -> TimeGrid:
    """The published grid of N steps, reduced to the single time t."""

    class OneOfMany(TimeGrid):
        def __len__(self) -> int:
            return N

    return OneOfMany(np.array([t]), np.array([1 / N]), published=True)


SINGLE = [
    (name, solver, flow)
    for name, sde in SDE_OF.items()
    for solver in ("euler_maruyama", "reverse_diffusion", "ancestral")
    for flow in (False, True)
    if isinstance(sde, SOLVERS[solver].sdes) and (solver, flow) not in {("euler_maruyama", True), ("ancestral", True)}
]


@pytest.mark.parametrize(
    ("name", "solver", "flow"), SINGLE, ids=[f"{n}-{s}-{'flow' if f else 'sde'}" for n, s, f in SINGLE]
)
def test_predictor_step(steps: dict[str, np.ndarray], name: str, solver: str, flow: bool) -> None:
    """One predictor step of each sample at its own time, with and without its noise, to 1e-5."""
    sde = SDE_OF[name]
    key = f"{name}/{solver.replace('ancestral', 'ancestral_sampling')}_pf{int(flow)}"
    for i, t in enumerate(steps[f"{name}/t"].astype(np.float64)):
        x, z = torch.from_numpy(steps[f"{name}/x"][i : i + 1]), steps[f"{key}/z"][i : i + 1]
        rows = SOLVERS[solver].fill(sde, one_time(t), probability_flow=flow)
        next_x = run_recorded(sde, StepTable.of(rows), x, [z, z])
        assert_close(next_x, steps[f"{key}/x_next"][i : i + 1], 1e-5)
        assert_close(next_x - rows[0].noise * torch.from_numpy(z), steps[f"{key}/x_mean"][i : i + 1], 1e-5)


@pytest.mark.parametrize("corrector", ["langevin", "ald"])
@pytest.mark.parametrize("name", ["ve", "vp"])
def test_corrector_steps(steps: dict[str, np.ndarray], name: str, corrector: str) -> None:
    """Two inner corrector steps with the batch's norms, every sample at its own time, to 1e-5."""
    sde, key = SDE_OF[name], f"{name}/{corrector}_snr0.16_n2"
    times = steps[f"{name}/t"].astype(np.float64)
    x = torch.from_numpy(steps[f"{name}/x"])
    model = GaussianMixture.gaussian(sde, 0.3, 0.5, x.shape[1:])
    rows = [CORRECTORS[corrector].fill(sde, one_time(t), 0.16)[0] for t in times]
    for draw in ("z0", "z1"):
        score, z = model.score(x, torch.from_numpy(times)), torch.from_numpy(steps[f"{key}/{draw}"])
        if corrector == "langevin":
            # The samples' times differ, which no run has; the step sizes are per sample, the norms the batch's.
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
    """A predictor-corrector run of ten steps through the loop itself, with the recorded draws, to 1e-5."""
    sde = SDE_OF[name.split("_")[0]]
    key = f"pc/{name}_N10"
    table = build_table(sde, RUNS[name])
    prior, draws = steps[f"{key}/prior_z"], list(steps[f"{key}/z"])
    out = run_recorded(sde, table, torch.from_numpy(prior) * sde.prior_std, [prior, *draws])
    assert_close(out, steps[f"{key}/out"], 1e-5)


def test_too_few_ancestral_steps_are_refused(steps: dict[str, np.ndarray]) -> None:
    """Where the original's ten ancestral VP steps run into NaN, the table is refused when it is built."""
    assert np.isnan(steps["pc/vp_ancestral_sampling_none_N10/out"]).any()
    with pytest.raises(ValueError, match="take more steps"):
        build_table(VPSDE(), SolverOptions("ancestral", 10))


def test_sde_registry_has_the_names_of_the_configurations() -> None:
    """Every SDE is found by the name that official configurations use."""
    assert {name: cls.name for name, cls in SDES.items()} == {n: n for n in ("vesde", "vpsde", "subvpsde", "cld")}
