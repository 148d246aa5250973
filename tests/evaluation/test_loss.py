# SPDX-License-Identifier: Apache-2.0
"""The training loss of a model on a data set: every image, fixed random numbers, standard error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.support.chance import SIGMAS, assert_moments
from tests.support.tiny_models import small_model

pytest.importorskip("sklearn")

import scoresde_fast as sf
from scoresde_fast.cli import main
from scoresde_fast.data.images import ImageBatch
from scoresde_fast.data.sources import open_images
from scoresde_fast.evaluation import data_set_loss
from scoresde_fast.training import load_recipe


class RandomImages:
    """A source of random images."""

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
        self.count, self.shape = count, shape

    def batches(self, size: int) -> Any:
        for images in self.images.split(size):
            yield ImageBatch(images, [""] * len(images), None)


def test_any_batch_size() -> None:
    """Every image has its own random numbers: the loss of 37 images does not depend on the batch size."""
    model, source = small_model("vpsde"), RandomImages(37, (1, 8, 8))
    losses = [data_set_loss(model, source, batch_size=size, progress=False).mean for size in (1, 8, 37)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    assert data_set_loss(model, source, run_seed=1, progress=False).mean != pytest.approx(losses[0], rel=1e-3)


@pytest.mark.statistical
@pytest.mark.parametrize("draws", [1, 4])
def test_standard_error(draws: int, run_seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard error equals the std of the mean over run seeds; here the losses are the uniform times.

    The mean of a batch of two has kurtosis 2.4, so the variance estimated from n batches has a relative standard error
    of sqrt(2 / (n - 1) - 0.6 / n).
    """
    monkeypatch.setattr("scoresde_fast.evaluation.loss.objective", lambda model, x0, u, z, z_v0: torch.tensor(u.mean()))
    model, source, runs, batches = small_model("vesde"), RandomImages(40, (1, 8, 8)), 200 // draws, 20 * draws
    found = [
        data_set_loss(model, source, draws=draws, run_seed=1000 * run_seed + run, batch_size=2, progress=False)
        for run in range(runs)
    ]
    variance = 1 / 12 / (40 * draws)
    assert_moments([loss.mean for loss in found], 0.5, variance**0.5)
    reach = SIGMAS * np.sqrt((2 / (batches - 1) - 0.6 / batches) / runs)
    assert np.mean([(loss.standard_error or 0) ** 2 for loss in found]) == pytest.approx(variance, rel=reach)


def test_one_batch_has_no_standard_error() -> None:
    """A single batch has no standard error."""
    loss = data_set_loss(small_model("vesde"), RandomImages(40, (1, 8, 8)), batch_size=64, progress=False)
    assert loss.standard_error is None


def test_invalid_arguments() -> None:
    """Images of another shape and zero draws are refused."""
    model = small_model("vpsde")
    with pytest.raises(ValueError, match=r"\(1, 4, 4\).*this model's are \(1, 8, 8\)"):
        data_set_loss(model, RandomImages(2, (1, 4, 4)))
    with pytest.raises(ValueError, match="draws is 0; it must be at least 1"):
        data_set_loss(model, RandomImages(2, (1, 8, 8)), draws=0)


def test_trained_model_has_a_lower_loss(capsys: pytest.CaptureFixture[str]) -> None:
    """The embedded model has a far lower loss than the same network untrained."""
    assert main(["eval", "loss", "digits-vp", "digits:test", "--batch-size", "32"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("loss 0.") and "(364 images" in printed and " ± " in printed
    fresh = data_set_loss(sf.create(load_recipe("digits-vp")), open_images("digits:test"), progress=False)
    assert float(printed.split()[1]) < 0.5 * fresh.mean
