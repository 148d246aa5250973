# SPDX-License-Identifier: Apache-2.0
"""The networks are the original's: outputs, scores and parameter counts of the papers' own program."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scoresde_fast.checkpoints import load
from scoresde_fast.configs import load_config, preset_names
from scoresde_fast.model import ScoreModel, build_network

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
NAMES = [
    "ve_ncsnpp",
    "ve_ncsnpp_discrete",
    "ve_ncsnpp_skip",
    "vp_ddpm",
    "vp_ddpmpp",
    "vp_ddpmpp_discrete",
    "subvp_ncsnpp",
]
OFFICIAL_COUNTS = {
    "ve/cifar10_ncsnpp_continuous": 62_758_915,
    "ve/cifar10_ncsnpp_deep_continuous": 107_587_075,
    "ve/ffhq_ncsnpp_continuous": 105_785_896,
}


@cache
def recorded(name: str) -> dict[str, NDArray[np.float32]]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


@cache
def model(name: str, weights: str) -> ScoreModel:
    if not GOLDEN.is_dir():
        pytest.skip(f"the golden data is not at {GOLDEN}")
    return load(GOLDEN / f"{name}.pth", config=GOLDEN / f"{name}.json", ema=weights == "ema")


def relative_error(ours: torch.Tensor, golden: NDArray[np.float32]) -> float:
    assert ours.shape == golden.shape
    assert ours.dtype == torch.float32
    return float(np.abs(ours.numpy() - golden).max() / np.abs(golden).max())


@pytest.mark.parametrize("weights", ["raw", "ema"])
@pytest.mark.parametrize("name", NAMES)
class TestGolden:
    """With the original's checkpoint, what the original computed."""

    @torch.no_grad()
    def test_network_output(self, name: str, weights: str) -> None:
        """The network gives the recorded output for the recorded input and label."""
        network, golden = model(name, weights).network, recorded(name)
        out = network(torch.from_numpy(golden["x_in"]), torch.from_numpy(golden["labels"]))
        assert relative_error(out, golden[f"net_{weights}"]) <= 2e-5

    @torch.no_grad()
    def test_score(self, name: str, weights: str) -> None:
        """The score at (x, t) is the recorded one, so labels and scaling are the original's."""
        score_model, golden = model(name, weights), recorded(name)
        score = score_model.score(torch.from_numpy(golden["x_in"]), torch.from_numpy(golden["t"]))
        assert relative_error(score, golden[f"score_{weights}"]) <= 2e-5


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_builds(name: str) -> None:
    """Each preset's network is built, without memory for it, and has the parameter count the original is known for."""
    with torch.device("meta"):
        network = build_network(load_config(name))
    # The original counts its fixed Fourier frequencies too.
    count = sum(weight.numel() for weight in network.parameters())
    assert count == OFFICIAL_COUNTS.get(name, count)
