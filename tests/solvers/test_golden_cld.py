# SPDX-License-Identifier: Apache-2.0
"""Runs of CLD's solvers agree with those recorded from the official code."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from scoresde_fast.model import ScoreFunction
from scoresde_fast.ops import affine_step
from scoresde_fast.ops.step_table import CONTROL
from scoresde_fast.parametrisation import OfficialParametrisation
from scoresde_fast.solvers import SolverOptions, build_table
from tests.support.cld import CLDS, GoldenNetwork, run


@pytest.mark.parametrize("denoise", [True, False], ids=["denoised", "noisy"])
@pytest.mark.parametrize(("striding", "grid"), [("linear", "uniform"), ("quadratic", "quadratic")])
@pytest.mark.parametrize("solver", ["em", "sscs"])
@pytest.mark.parametrize("name", CLDS)
def test_golden_runs(golden: Path, name: str, solver: str, striding: str, grid: str, denoise: bool) -> None:
    """Runs of eight evaluations with the recorded noise and a mixed score agree to 1e-5; SSCS with ``original``."""
    with np.load(golden / "cld_steps.npz") as archive:
        key = f"sample/{name}_{solver}_{striding}_denoise{int(denoise)}_n8"
        start, draws, x, v, nfe = (archive[f"{key}/{part}"] for part in ("u0", "z", "x", "v", "nfe"))
    options = SolverOptions(solver, 8, grid=grid, denoise=denoise, original=solver == "sscs")
    table = build_table(CLDS[name], options)
    assert table.nfe == nfe
    model = ScoreFunction(GoldenNetwork(), OfficialParametrisation(CLDS[name], mixed=True), (3, 4, 4))

    def recorded(state: Tensor, _ids: Tensor, _seed: int, control: Tensor) -> Tensor:
        return torch.from_numpy(draws[int(control[CONTROL.draw]) - 1]).to(state.dtype)

    with patch.object(affine_step, "row_noise", recorded):
        out = run(model, table, torch.from_numpy(start), "reference")
    for ours, theirs in zip(out.chunk(2, dim=1), (x, v), strict=True):
        assert np.abs(ours.numpy() - theirs).max() <= 1e-5 * np.abs(theirs).max()
