# SPDX-License-Identifier: Apache-2.0
"""Outputs, scores and parameter counts of the networks agree with those of the official code."""

from __future__ import annotations

import pytest
import torch

from scoresde_fast.configs import load_config, preset_names
from scoresde_fast.model import build_network
from tests.support.golden import NETWORKS, model, recorded, recorded_inputs, relative_error

ROUNDING = 2e-5
"""Allowed error relative to the largest value; recorded float32 outputs and ours each differ from float64 by 5e-6."""
OFFICIAL_COUNTS = {
    "ve/cifar10_ncsnpp_continuous": 62_758_915,
    "ve/cifar10_ncsnpp_deep_continuous": 107_587_075,
    "ve/ffhq_ncsnpp_continuous": 105_785_896,
}


def parameter_count(preset: str) -> int:
    """Return the parameter count of a preset's network; like the official count, it includes Fourier frequencies."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in build_network(load_config(preset)).parameters())


@pytest.mark.parametrize("weights", ["raw", "ema"])
@pytest.mark.parametrize("name", NETWORKS)
class TestGolden:
    """A recorded checkpoint gives the recorded results."""

    @torch.no_grad()
    def test_network_output(self, name: str, weights: str) -> None:
        """The output is the recorded one for the recorded input and label."""
        network, golden = model(name, weights).network, recorded(name)
        x, labels, _ = recorded_inputs(golden)
        out = network(x, labels)
        assert relative_error(out, golden[f"net_{weights}"]) <= ROUNDING

    @torch.no_grad()
    def test_score(self, name: str, weights: str) -> None:
        """The score at (x, t) is the recorded one, which tests labels and scaling."""
        score_model, golden = model(name, weights), recorded(name)
        x, _, t = recorded_inputs(golden)
        score = score_model.score(x, t)
        assert relative_error(score, golden[f"score_{weights}"]) <= ROUNDING

    @torch.no_grad()
    def test_probability_flow(self, name: str, weights: str) -> None:
        """The drift of the probability-flow ODE is the recorded one, if one was recorded."""
        key = f"pf_drift_{weights}"
        if key not in recorded(name):
            pytest.skip(f"no {key} was recorded")
        x, _, t = recorded_inputs(recorded(name))
        drift = model(name, weights).probability_flow(x, t)
        assert relative_error(drift, recorded(name)[key]) <= ROUNDING


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_builds(name: str) -> None:
    """Each preset's network builds, and has the published parameter count if one is known."""
    count = parameter_count(name)
    assert count == OFFICIAL_COUNTS.get(name, count) > 0


def test_parameter_count_of_cld() -> None:
    """CLD's CIFAR-10 network is the deep NCSN++ of 107.6 M, but two convolutions also read the velocity.

    The stem and the first convolution of the input pyramid have 3 more input channels, 128 outputs and 3x3 kernels.
    """
    deep = OFFICIAL_COUNTS["ve/cifar10_ncsnpp_deep_continuous"]
    assert parameter_count("cld_cifar10") == deep + 2 * (3 * 128 * 3 * 3)
