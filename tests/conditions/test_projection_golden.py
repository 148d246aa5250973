# SPDX-License-Identifier: Apache-2.0
"""Inpainting and colorization with original=True agree with runs recorded from the official code."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from scoresde_fast.conditions.projection import Projection
from scoresde_fast.loop.condition import FIRST_DRAW, BoundConditions, RunContext
from scoresde_fast.loop.evaluator import PlainNetwork
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.noise import Noise
from scoresde_fast.ops import affine_step, langevin, project
from scoresde_fast.ops.step_table import CONTROL
from scoresde_fast.rng import WORD
from scoresde_fast.sdes import VESDE, VPSDE, ScalarSDE, SubVPSDE
from scoresde_fast.solvers import SolverOptions, build_table

RUNS: dict[str, tuple[ScalarSDE, SolverOptions]] = {
    "ve_reverse_diffusion_langevin": (VESDE(), SolverOptions("reverse_diffusion", 10, "langevin", denoise=False)),
    "vp_euler_maruyama_none": (VPSDE(), SolverOptions("euler_maruyama", 10, denoise=False)),
    "subvp_euler_maruyama_none": (SubVPSDE(), SolverOptions("euler_maruyama", 10, denoise=False)),
}


@pytest.fixture(scope="module")
def control(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "score_sde_control.npz") as archive:
        return dict(archive)


def recorded_index(draw: int, *, has_corrector: bool) -> int:
    """Return the index, among the recorded draws, of the package's ``draw``.

    Each step of the official code draws for its corrector, if it has one, for the projection after it, for its
    predictor and for the projection after that.
    """
    projection = draw - FIRST_DRAW
    if has_corrector:
        return 2 * (draw - 1) if projection < 0 else 2 * projection - 1
    # Of two projections in a row only the second has an effect.
    return 3 * (draw - 1) + 1 if projection < 0 else 3 * projection


@pytest.mark.parametrize("task", ["inpaint", "colorize"])
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("original", [True, False], ids=["original", "corrected"])
def test_whole_run(control: dict[str, np.ndarray], name: str, task: str, original: bool) -> None:
    """Ten steps with the recorded draws agree to 1e-5 with original=True, and differ without."""
    sde, options = RUNS[name]
    recorded = {field: torch.from_numpy(control[f"{task}/{name}_N10/{field}"]) for field in ("data", "prior_z", "z")}
    expected = control[f"{task}/{name}_N10/out"]
    data, z = recorded["data"], recorded["z"]
    mask = torch.from_numpy(control[f"inpaint/{name}_N10/mask"]) if task == "inpaint" else None
    known = data if task == "inpaint" else data[:, :1]
    ids = torch.arange(len(data))

    def noise(state: Tensor, _ids: Tensor, _seed: int, row: Tensor) -> Tensor:
        index = recorded_index(int(row[CONTROL.draw]) & WORD, has_corrector=options.corrector is not None)
        # The last projection has a draw of its own, but does not use its noise.
        return z[min(index, len(z) - 1)][:, : state.shape[1]].to(state.dtype)

    model = GaussianMixture.gaussian(sde, 0.3, 0.5, data.shape[1:])
    table = build_table(sde, options)
    program = Program.of_model(model, table, "cpu")
    condition = Projection(known, mask, seeds=ids.tolist(), original=original)
    bound = condition.bind(RunContext(model, table, options, torch.device("cpu"), "reference"))
    loop = Loop(
        program, PlainNetwork(model.network, program.labels), StepBackends.choose("cpu", "reference"),
        langevin_norm="batch", conditions=BoundConditions((bound,)),
    )  # fmt: skip
    with ExitStack() as stack:
        for operation in (affine_step, langevin, project):
            stack.enter_context(patch.object(operation, "row_noise", noise))
        out = loop.run(recorded["prior_z"] * sde.prior_std, Noise(0, ids)).numpy()
    error = np.abs(out - expected).max() / np.abs(expected).max()
    assert (error <= 1e-5) == original
