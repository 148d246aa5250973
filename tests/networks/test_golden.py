# SPDX-License-Identifier: Apache-2.0
"""Outputs, scores and parameter counts of the networks against those of the original program."""

from __future__ import annotations

import pytest
import torch

from scoresde_fast.configs import load_config, preset_names
from scoresde_fast.model import build_network
from tests.support.golden import NETWORKS, model, recorded, recorded_inputs, relative_error

ROUNDING = 2e-5
"""Relative to the largest value; in float32 the recorded outputs and ours are each up to 5e-6 from float64."""
OFFICIAL_COUNTS = {
    "ve/cifar10_ncsnpp_continuous": 62_758_915,
    "ve/cifar10_ncsnpp_deep_continuous": 107_587_075,
    "ve/ffhq_ncsnpp_continuous": 105_785_896,
}


def parameter_count(preset: str) -> int:
    """Return the parameters of a preset's network, with the fixed Fourier frequencies, as in the original."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in build_network(load_config(preset)).parameters())


@pytest.mark.parametrize("weights", ["raw", "ema"])
@pytest.mark.parametrize("name", NETWORKS)
class TestGolden:
    """The original's checkpoint gives the original's results."""

    @torch.no_grad()
    def test_network_output(self, name: str, weights: str) -> None:
        """The network gives the recorded output for the recorded input and label."""
        network, golden = model(name, weights).network, recorded(name)
        x, labels, _ = recorded_inputs(golden)
        out = network(x, labels)
        assert relative_error(out, golden[f"net_{weights}"]) <= ROUNDING

    @torch.no_grad()
    def test_score(self, name: str, weights: str) -> None:
        """The score at (x, t) is the recorded one, so labels and scaling are the original's."""
        score_model, golden = model(name, weights), recorded(name)
        x, _, t = recorded_inputs(golden)
        score = score_model.score(x, t)
        assert relative_error(score, golden[f"score_{weights}"]) <= ROUNDING

    @torch.no_grad()
    def test_probability_flow(self, name: str, weights: str) -> None:
        """The slope of the probability-flow ODE is the recorded one, where one was recorded."""
        key = f"pf_drift_{weights}"
        if key not in recorded(name):
            pytest.skip(f"no {key} was recorded")
        x, _, t = recorded_inputs(recorded(name))
        drift = model(name, weights).probability_flow(x, t)
        assert relative_error(drift, recorded(name)[key]) <= ROUNDING


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_builds(name: str) -> None:
    """Each preset's network is built, and has the parameter count the original is known for."""
    count = parameter_count(name)
    assert count == OFFICIAL_COUNTS.get(name, count) > 0


def test_parameter_count_of_cld() -> None:
    """CLD's CIFAR-10 network is the deep NCSN++, 107.6 M, but for the two convolutions that read the velocity too.

    These are the stem and the first of the input pyramid, each from 3 more channels to 128 by a 3x3 kernel.
    """
    deep = OFFICIAL_COUNTS["ve/cifar10_ncsnpp_deep_continuous"]
    assert parameter_count("cld_cifar10") == deep + 2 * (3 * 128 * 3 * 3)
