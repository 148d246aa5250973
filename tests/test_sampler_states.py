# SPDX-License-Identifier: Apache-2.0
"""Positions and velocities of CLD models of images and of points, from `Sampler` and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scoresde_fast as sf
from scoresde_fast.cli import main
from scoresde_fast.sdes import CLDSDE
from scoresde_fast.solvers import SolverOptions


@pytest.fixture(scope="module")
def image_model() -> sf.ScoreModel:
    torch.manual_seed(0)
    options = {
        "model": {"name": "ncsnpp", "nf": 8, "ch_mult": [1, 1], "num_res_blocks": 1, "num_scales": 0, "dropout": 0.0},
        "data": {"image_size": 8, "centered": True},
        "training": {"sde": "cld"},
    }
    return sf.create(options)


@pytest.fixture(scope="module")
def point_model() -> sf.ScoreModel:
    torch.manual_seed(0)
    return sf.create("cld_toy")


@pytest.mark.parametrize("solver", ["sscs", "em", "gddim"])
def test_return_velocity(image_model: sf.ScoreModel, solver: str) -> None:
    """Returning velocities does not change the images; velocities are not clipped to [0, 1]."""
    options: dict[str, Any] = {"solver": solver, "steps": 6, "grid": "quadratic"}
    images = sf.sample(image_model, range(3), **options)
    both, velocity = sf.sample(image_model, range(3), return_velocity=True, **options)
    assert images.shape == velocity.shape == (3, 3, 8, 8)
    assert torch.equal(images, both)
    assert images.min() >= 0 and images.max() <= 1
    assert velocity.min() < 0


def test_a_seed_is_the_same_in_any_batch(image_model: sf.ScoreModel) -> None:
    """With strict=True a position and its velocity depend only on their seed, bit for bit."""
    sampler = sf.Sampler(image_model, "sscs", 6, strict=True, batch_size=4)
    together, velocities = sampler.sample(range(9), return_velocity=True)
    alone, velocity = sampler.sample([7], return_velocity=True)
    assert torch.equal(together[7:8], alone) and torch.equal(velocities[7:8], velocity)


def test_points_are_not_clipped(point_model: sf.ScoreModel) -> None:
    """Points are not clipped: negative coordinates are kept."""
    points = sf.sample(point_model, range(64), steps=10)
    assert points.shape == (64, 2, 1, 1)
    assert points.min() < -0.5 and points.isfinite().all()


def test_no_velocity_without_cld() -> None:
    """Requesting velocities of a VP model raises an error."""
    with pytest.raises(ValueError, match="states of the SDE 'vpsde' have no velocity"):
        sf.sample(sf.load("digits-vp"), range(2), solver="em", steps=2, return_velocity=True)


def test_position_alone_is_refused(image_model: sf.ScoreModel) -> None:
    """A CLD score raises an error for a state that is not a pair."""
    with pytest.raises(ValueError, match=r"\(6, 8, 8\), position and velocity concatenated along the channels"):
        image_model.score(torch.zeros(2, 3, 8, 8), torch.ones(2))


def test_defaults_of_a_model_without_a_configuration() -> None:
    """An exact mixture on CLD is sampled by SSCS with quadratic striding by default, in few steps by gDDIM."""
    mixture = sf.GaussianMixture.gaussian(CLDSDE(), 0.3, 0.5, (1, 2, 2))
    for steps, solver in ((100, "sscs"), (20, "gddim")):
        sampler = sf.Sampler(mixture, steps=steps)
        assert isinstance(sampler.options, SolverOptions)
        assert (sampler.options.solver, sampler.options.grid, sampler.nfe) == (solver, "quadratic", steps)


def test_command_line(point_model: sf.ScoreModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Points and velocities in one .npz equal those from Python; other formats and existing files are rejected."""
    point_model.save_pretrained(tmp_path / "model")
    out = tmp_path / "states.npz"
    command = ["sample", str(tmp_path / "model"), "--seeds", "3-6", "--solver", "em", "--steps", "5"]
    assert main([*command, "--return-velocity", "--out", str(out)]) == 0
    position, velocity = sf.sample(point_model, range(3, 7), solver="em", steps=5, return_velocity=True)
    with np.load(out) as arrays:
        assert arrays["seeds"].tolist() == [3, 4, 5, 6]
        assert np.array_equal(arrays["position"], position.numpy())
        assert np.array_equal(arrays["velocity"], velocity.numpy())
    capsys.readouterr()
    for wrong, sentence in (("folder", "are written to one .npz file"), ("states.npz", "already exists")):
        assert main([*command, "--out", str(tmp_path / wrong)]) == 2
        assert sentence in capsys.readouterr().err
