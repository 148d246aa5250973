# SPDX-License-Identifier: Apache-2.0
"""Training losses agree with those recorded from the original program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scoresde_fast.model import Parametrisation, ScoreFunction
from scoresde_fast.sdes import VESDE, VPSDE, SubVPSDE
from scoresde_fast.training.losses import ddpm_loss, score_matching_loss, smld_loss, training_times

SDE_OF = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE()}


class Toy(nn.Module):
    """The "network" that the golden losses were recorded with."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        labels = labels.float()[:, None, None, None]
        return 0.3 * x + 0.01 * labels / (1 + labels)


@pytest.fixture(scope="module")
def steps(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "score_sde_steps.npz") as archive:
        return dict(archive)


@pytest.mark.parametrize("reduce_mean", [False, True], ids=["sum", "mean"])
@pytest.mark.parametrize("likelihood_weighting", [False, True], ids=["std", "likelihood"])
@pytest.mark.parametrize("name", SDE_OF)
def test_continuous(steps: dict[str, np.ndarray], name: str, likelihood_weighting: bool, reduce_mean: bool) -> None:
    """Continuous score matching with both weightings and both reductions, to 1e-5."""
    key = f"loss/{name}_continuous_lw{int(likelihood_weighting)}_mean{int(reduce_mean)}"
    model = ScoreFunction(Toy(), Parametrisation(SDE_OF[name]), (3, 4, 4), centered=False)
    loss = score_matching_loss(
        model,
        torch.from_numpy(steps["loss/batch"]),
        training_times(steps[f"{key}/u"].astype(np.float64)),
        torch.from_numpy(steps[f"{key}/z"]),
        likelihood_weighting=likelihood_weighting,
        reduce_mean=reduce_mean,
    )
    assert float(loss) == pytest.approx(float(steps[f"{key}/loss"]), rel=1e-5)


@pytest.mark.parametrize("reduce_mean", [False, True], ids=["sum", "mean"])
@pytest.mark.parametrize(("kind", "loss_of", "sde"), [("ve_smld", smld_loss, VESDE()), ("vp_ddpm", ddpm_loss, VPSDE())])
def test_discrete(steps: dict[str, np.ndarray], kind: str, loss_of: object, sde: object, reduce_mean: bool) -> None:
    """The objectives of the discrete models, SMLD and DDPM, with both reductions, to 1e-5."""
    key = f"loss/{kind}_mean{int(reduce_mean)}"
    batch, labels, z = (torch.from_numpy(steps[k]) for k in ("loss/batch", f"{key}/labels", f"{key}/z"))
    loss = loss_of(Toy(), sde, 1000, batch, labels, z, reduce_mean=reduce_mean)
    assert float(loss) == pytest.approx(float(steps[f"{key}/loss"]), rel=1e-5)
