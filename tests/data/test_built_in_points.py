# SPDX-License-Identifier: Apache-2.0
"""The built-in sets of points: modes, variance, splits, and training with the recipes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scoresde_fast.configs import TrainingConfig
from scoresde_fast.data import DATASETS, load_dataset
from scoresde_fast.data.built_in import DIAMOND_NOISE, POINTS, ROLL_CENTRES, ROLL_NOISE, ROLL_RADIUS, diamond_centres
from scoresde_fast.networks import MLP
from scoresde_fast.training import Trainer, load_recipe
from scoresde_fast.training.losses import velocity_score_matching_loss

MODES = {"swiss_roll": 5, "diamond": 25}
FIRST = {"swiss_roll": [-0.1240801, -0.4777958], "diamond": [0.0172792, -1.958919]}
LEARNT = {"swiss_roll": (200, 0.3), "diamond": (600, 0.2)}
"""Training steps after which a network has learnt the modes, and the time at which the modes separate."""
RECIPES = {"cld-toy": "swiss_roll", "cld-toy-diamond": "diamond"}
toys = pytest.mark.parametrize("name", MODES)


@toys
def test_modes_and_variance(name: str) -> None:
    """Points have 2 coordinates with a variance near 1, and every mode has the same number of points."""
    points, labels = load_dataset(name)
    assert points.shape == (POINTS, 2, 1, 1) and points.dtype == torch.float32
    assert labels.dtype == torch.int64 and labels.bincount().tolist() == [POINTS // MODES[name]] * MODES[name]
    assert (points.flatten(1).var(0) - 1).abs().max() < 0.02


@toys
def test_deterministic(name: str) -> None:
    """Every call returns the same points, and neither depends on the global generators nor advances them."""
    np.random.seed(5)
    torch.manual_seed(5)
    first = load_dataset(name)[0]
    next_numbers = np.random.rand(), torch.rand(()).item()
    np.random.seed(5)
    torch.manual_seed(5)
    assert next_numbers == (np.random.rand(), torch.rand(()).item())
    assert torch.equal(first, load_dataset(name)[0])
    assert first[0].flatten().tolist() == pytest.approx(FIRST[name], abs=1e-6)


@toys
def test_splits_are_a_partition(name: str) -> None:
    """Train and test are disjoint and together complete, with a fifth of every mode in the test split."""
    rows = {}
    for split in ("all", "train", "test"):
        points, labels = load_dataset(name, split)
        rows[split] = {point.numpy().tobytes() for point in points}
        assert len(rows[split]) == len(points) == len(labels)
    assert rows["train"] | rows["test"] == rows["all"] and not rows["train"] & rows["test"]
    assert labels.bincount().tolist() == [POINTS // MODES[name] // 5] * MODES[name]


def test_diamond_modes() -> None:
    """The nearest of the 25 centres are in diagonal directions; each point is within six std of only its centre."""
    points, labels = load_dataset("diamond")
    centres = torch.from_numpy(diamond_centres()).float()
    distances = torch.cdist(points.flatten(1), centres)
    assert torch.equal(distances.argmin(1), labels)
    offsets = points.flatten(1) - centres[labels]
    assert offsets.abs().max() < 6 * DIAMOND_NOISE and abs(offsets.std().item() / DIAMOND_NOISE - 1) < 0.02
    spacing = torch.cdist(centres, centres).fill_diagonal_(torch.inf)
    steps = (centres[:, None] - centres)[spacing < 1.01 * spacing.min()]
    assert len(steps) == 2 * 40 and torch.allclose(steps[:, 0].abs(), steps[:, 1].abs(), atol=1e-6)


def test_rolls_are_spirals() -> None:
    """Up to noise, the distance of a point from its centre grows with its angle, over one and a half turns."""
    points, labels = load_dataset("swiss_roll")
    x, y = (points.flatten(1).double() - torch.from_numpy(ROLL_CENTRES)[labels]).T
    radius, angle = torch.hypot(x, y), torch.atan2(y, x)
    spiral_angle = radius / ROLL_RADIUS * 4.5 * torch.pi
    turns = (spiral_angle - angle) / (2 * torch.pi)
    radial_error = (turns - turns.round()) * 2 * torch.pi * ROLL_RADIUS / (4.5 * torch.pi)
    # The noise also changes the angle, so its std across the spiral is slightly above ROLL_NOISE.
    assert radial_error.abs().max() < 6 * ROLL_NOISE and 1 < radial_error.std().item() / ROLL_NOISE < 1.1
    assert spiral_angle.min() < 1.55 * torch.pi and spiral_angle.max() > 4.45 * torch.pi
    assert {int(turn) for turn in turns.round()} == {1, 2}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_learn(recipe: str, tmp_path: Path) -> None:
    """A few hundred steps lower the test loss at the time when modes form; scores are finite at all times."""
    config = load_recipe(recipe)
    assert config.data.dataset == RECIPES[recipe]
    steps, time = LEARNT[config.data.dataset]
    training = replace(config.training, n_iters=steps, batch_size=256)
    trainer = Trainer(replace(config, training=training, optim=replace(config.optim, warmup=20, decay=0)), tmp_path)
    test_points = load_dataset(config.data.dataset, "test")[0][:2000]
    z = torch.randn(2000, 4, 1, 1, generator=torch.Generator().manual_seed(0))

    def loss() -> float:
        times = np.full(2000, time)
        with torch.no_grad():
            settings = TrainingConfig("cld", weighting="reweightedv2", reduce_mean=True)
            return velocity_score_matching_loss(trainer.model, test_points, times, z, z[:, :2], settings).item()

    before = loss()
    assert all(np.isfinite(value) for _, value in trainer.run())
    trainer.ema.swap()
    assert loss() < 0.9 * before
    for t in (1e-5, 1e-3, 0.5, 1.0):
        score = trainer.model.score(trainer.model.prior(z), torch.full((2000,), t))
        assert score.shape == (2000, 2, 1, 1) and score.isfinite().all()


def test_wrong_number_of_channels() -> None:
    """A number of channels that does not fit the coordinates is refused; the message gives the right one."""
    with pytest.raises(
        ValueError, match=r"in_channels is 3, but must be a multiple of num_channels, 2; for CLD it is 4"
    ):
        MLP(num_channels=2, in_channels=3)


@toys
def test_unknown_split(name: str) -> None:
    """The message for a misspelt split suggests the nearest name."""
    assert name in DATASETS
    with pytest.raises(ValueError, match="did you mean 'train'"):
        load_dataset(name, "trian")
