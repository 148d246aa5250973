# SPDX-License-Identifier: Apache-2.0
"""Training losses: agreement with the official code, and the objective of each configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scoresde_fast.configs import TrainingConfig
from scoresde_fast.model import ScoreFunction
from scoresde_fast.parametrisation import OfficialParametrisation
from scoresde_fast.sdes import SDE, VESDE, VPSDE, SubVPSDE
from scoresde_fast.training import Trainer, load_recipe
from scoresde_fast.training.losses import (
    ddpm_loss,
    objective,
    score_matching_loss,
    smld_loss,
    unit_images,
    velocity_score_matching_loss,
)
from scoresde_fast.training.trainer import Batch
from tests.support.tiny_models import small_model

SDE_OF = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE()}
NAMES = ("digits-ve", "digits-vp", "digits-subvp", "digits-cld")


class Toy(nn.Module):
    """The function in place of a network with which the golden losses were recorded."""

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
    """Continuous score matching agrees to 1e-5, with both weightings and both reductions."""
    key = f"loss/{name}_continuous_lw{int(likelihood_weighting)}_mean{int(reduce_mean)}"
    model = ScoreFunction(Toy(), OfficialParametrisation(SDE_OF[name]), (3, 4, 4), (0.0, 1.0))
    training = TrainingConfig("vesde", likelihood_weighting=likelihood_weighting, reduce_mean=reduce_mean)
    batch, z = (torch.from_numpy(steps[k]) for k in ("loss/batch", f"{key}/z"))
    times = steps[f"{key}/u"].astype(np.float64) * (1 - 1e-5) + 1e-5
    loss = score_matching_loss(model, batch, times, z, training)
    assert float(loss) == pytest.approx(float(steps[f"{key}/loss"]), rel=1e-5)


@pytest.mark.parametrize("reduce_mean", [False, True], ids=["sum", "mean"])
@pytest.mark.parametrize(("kind", "loss_of", "sde"), [("ve_smld", smld_loss, VESDE()), ("vp_ddpm", ddpm_loss, VPSDE())])
def test_discrete(
    steps: dict[str, np.ndarray], kind: str, loss_of: Callable[..., Tensor], sde: SDE, reduce_mean: bool
) -> None:
    """The objectives of discrete models, SMLD and DDPM, agree to 1e-5, with both reductions."""
    key = f"loss/{kind}_mean{int(reduce_mean)}"
    batch, labels, z = (torch.from_numpy(steps[k]) for k in ("loss/batch", f"{key}/labels", f"{key}/z"))
    model = ScoreFunction(Toy(), OfficialParametrisation(sde, continuous=False), (3, 4, 4), (0.0, 1.0))
    loss = loss_of(model, batch, labels, z, TrainingConfig("vesde", reduce_mean=reduce_mean))
    assert float(loss) == pytest.approx(float(steps[f"{key}/loss"]), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_objective_is_the_configured_loss(name: str, tmp_path: Any) -> None:
    """With the random numbers of a training step, the objective equals the configured loss."""
    pytest.importorskip("sklearn")
    trainer = Trainer(load_recipe(name), tmp_path)
    model, settings = trainer.model.eval(), trainer.config.training
    batch = Batch.draw(0, 3, 4, len(trainer.images), model)
    x0 = model.from_images(unit_images(trainer.images[batch.index], batch.dequantization, trainer.config.data))
    times = settings.loss_eps + (1 - settings.loss_eps) * batch.u ** (2 if settings.loss_times == "quadratic" else 1)
    with torch.no_grad():
        ours = objective(model, x0, batch.u, batch.z, batch.z_v0)
        if name == "digits-cld":
            theirs = velocity_score_matching_loss(model, x0, times, batch.z, batch.z_v0, settings)
        else:
            theirs = score_matching_loss(model, x0, times, batch.z, settings)
    assert torch.equal(ours, theirs) and float(ours) > 0


@pytest.mark.parametrize(("sde", "loss"), [("vesde", smld_loss), ("vpsde", ddpm_loss)])
def test_discrete_models(sde: str, loss: Any) -> None:
    """The objective of a discrete model is discrete, and ``u`` reaches the first and the last noise level."""
    model = small_model(sde, continuous=False)
    x0, z = torch.rand(3, 1, 8, 8), torch.randn(3, 1, 8, 8)
    u = np.array([0.0, 0.5, 1.0])
    with torch.no_grad():
        theirs = loss(model, x0, torch.tensor([0, 10, 19]), z, model.config.training)
        assert torch.equal(objective(model, x0, u, z, z), theirs)


def test_discrete_subvp_has_no_objective() -> None:
    """The sub-VP SDE has no discrete objective."""
    model, x = small_model("subvpsde", continuous=False), torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match="only the continuous objective"):
        objective(model, x, np.array([0.5]), x, x)
