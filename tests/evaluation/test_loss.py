# SPDX-License-Identifier: Apache-2.0
"""A model's training loss on a data set: the objective of its configuration, every image, fixed random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.support.chance import SIGMAS, assert_moments

pytest.importorskip("sklearn")

import scoresde_fast as sf
from scoresde_fast.cli import main
from scoresde_fast.data.sources import open_images
from scoresde_fast.evaluation import data_set_loss
from scoresde_fast.training import Trainer, load_recipe
from scoresde_fast.training.losses import (
    ddpm_loss,
    score_matching_loss,
    smld_loss,
    training_times,
    velocity_score_matching_loss,
)
from scoresde_fast.training.objective import objective, unit_images
from scoresde_fast.training.trainer import Batch

NAMES = ("digits-ve", "digits-vp", "digits-subvp", "digits-cld")


@pytest.mark.parametrize("name", NAMES)
def test_is_the_loss_of_the_sde(name: str, tmp_path: Any) -> None:
    """On a training step's random numbers the objective is the loss that the golden data prove, as configured."""
    trainer = Trainer(load_recipe(name), tmp_path)
    model, settings = trainer.model.eval(), trainer.config.training
    batch = Batch.draw(0, 3, 4, len(trainer.images), model)
    x0 = model.from_images(unit_images(trainer.images[batch.index], batch.dequantization, trainer.config.data))
    times = training_times(batch.u, eps=settings.loss_eps, quadratic=settings.loss_times == "quadratic")
    with torch.no_grad():
        ours = objective(model, x0, batch.u, batch.z, batch.z_v0)
        mean = {"reduce_mean": settings.reduce_mean}
        if name == "digits-cld":
            noise = (batch.z, batch.z_v0)
            theirs = velocity_score_matching_loss(model, x0, times, *noise, weighting=settings.weighting, **mean)
        else:
            weighting = settings.likelihood_weighting
            theirs = score_matching_loss(model, x0, times, batch.z, likelihood_weighting=weighting, **mean)
    assert torch.equal(ours, theirs) and float(ours) > 0


def small(sde: str, **training: Any) -> sf.ScoreModel:
    """A small model of 8x8 images with weights that are not zero at its end."""
    size = {"nf": 8, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": ()}
    config: dict[str, Any] = {
        "model": {"name": "ncsnpp", **size, "num_scales": 20, "embedding_type": "positional"},
        "data": {"dataset": "digits", "image_size": 8, "num_channels": 1, "uniform_dequantization": True},
        "training": {"sde": sde, **training},
    }
    torch.manual_seed(0)
    model = sf.create(config).eval()
    for parameter in model.network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


class Few:
    """Images of noise as a source."""

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
        self.count, self.shape = count, shape

    def batches(self, size: int) -> Any:
        from scoresde_fast.data.items import ImageBatch

        for images in self.images.split(size):
            yield ImageBatch(images, [""] * len(images), None)


def test_does_not_depend_on_the_batch_size() -> None:
    """Every image counts once with random numbers of its own: 37 images in batches of any size have one loss."""
    model, source = small("vpsde"), Few(37, (1, 8, 8))
    losses = [data_set_loss(model, source, batch_size=size, progress=False).mean for size in (1, 8, 37)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    assert data_set_loss(model, source, run_seed=1, progress=False).mean != pytest.approx(losses[0], rel=1e-3)


@pytest.mark.statistical
@pytest.mark.parametrize("draws", [1, 4])
def test_standard_error(draws: int, run_seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what the mean varies by between run seeds, which is known where losses are the uniform numbers themselves.

    A batch's mean of two of them has the kurtosis 2.4, so that the estimated variance of one of n batches has the
    relative standard error sqrt(2 / (n - 1) - 0.6 / n).
    """
    monkeypatch.setattr("scoresde_fast.evaluation.loss.objective", lambda model, x0, u, z, z_v0: torch.tensor(u.mean()))
    model, source, runs, batches = small("vesde"), Few(40, (1, 8, 8)), 200 // draws, 20 * draws
    found = [
        data_set_loss(model, source, draws=draws, run_seed=1000 * run_seed + run, batch_size=2, progress=False)
        for run in range(runs)
    ]
    variance = 1 / 12 / (40 * draws)
    assert_moments([loss.mean for loss in found], 0.5, variance**0.5)
    reach = SIGMAS * np.sqrt((2 / (batches - 1) - 0.6 / batches) / runs)
    assert np.mean([(loss.standard_error or 0) ** 2 for loss in found]) == pytest.approx(variance, rel=reach)


def test_one_batch_has_no_standard_error() -> None:
    """Its mean cannot be compared with another's."""
    assert data_set_loss(small("vesde"), Few(40, (1, 8, 8)), batch_size=64, progress=False).standard_error is None


@pytest.mark.parametrize(("sde", "loss"), [("vesde", smld_loss), ("vpsde", ddpm_loss)])
def test_discrete_models(sde: str, loss: Any) -> None:
    """Models of discrete noise levels have the objective they were trained on, with every level drawn."""
    model = small(sde, continuous=False)
    x0, z = torch.rand(3, 1, 8, 8), torch.randn(3, 1, 8, 8)
    u = np.array([0.0, 0.5, 1.0])
    with torch.no_grad():
        theirs = loss(model.network, model.sde, 20, x0, torch.tensor([0, 10, 19]), z, reduce_mean=False)
        assert torch.equal(objective(model, x0, u, z, z), theirs)


def test_discrete_subvp_has_none() -> None:
    """The sub-VP SDE has no discrete objective."""
    model, x = small("subvpsde", continuous=False), torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match="only the continuous objective"):
        objective(model, x, np.array([0.5]), x, x)


def test_mistakes() -> None:
    """Images of another shape, and no draws."""
    model = small("vpsde")
    with pytest.raises(ValueError, match=r"\(1, 4, 4\).*this model's are \(1, 8, 8\)"):
        data_set_loss(model, Few(2, (1, 4, 4)))
    with pytest.raises(ValueError, match="draws is 0; it is at least 1"):
        data_set_loss(model, Few(2, (1, 8, 8)), draws=0)


def test_trained_models_lose_less(capsys: pytest.CaptureFixture[str]) -> None:
    """The embedded model has learnt its data: its loss is below that of the same network untrained."""
    assert main(["eval", "loss", "digits-vp", "digits:test", "--batch-size", "32"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("loss 0.") and "(364 images" in printed and " ± " in printed
    fresh = data_set_loss(sf.create(load_recipe("digits-vp")), open_images("digits:test"), progress=False)
    assert float(printed.split()[1]) < 0.5 * fresh.mean
