# SPDX-License-Identifier: Apache-2.0
"""The NCSN++ of diffusers is ours: the same outputs from the same weights, and other U-Nets are recognised."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import scoresde_fast as sf
from scoresde_fast.networks import NCSNpp
from scoresde_fast.networks.adapter import Adapter
from tests.support.diffusers_models import diffusers, unet

NCSNPP: dict[str, Any] = {
    # As google/ncsnpp-celebahq-256, but smaller.
    "sample_size": 16,
    "block_out_channels": (32, 128, 128),
    "norm_num_groups": None,
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "mid_block_scale_factor": 1.41421356237,
    "time_embedding_type": "fourier",
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
    "up_block_types": ("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
}
OTHERS: dict[str, dict[str, Any]] = {
    "epsilon of the norms": {"norm_eps": 1e-5},
    "heads": {"attention_head_dim": 8},
    "scale of the middle block": {"mid_block_scale_factor": 1.0},
    "groups of the norms": {"norm_num_groups": 16},
    # diffusers gives attention 32 groups; NCSN++ has groups of at least four channels.
    "groups of narrow attention": {"block_out_channels": (32, 64, 64)},
    "attention on one side": {"up_block_types": ("SkipUpBlock2D", "SkipUpBlock2D", "SkipUpBlock2D")},
    "widths": {"block_out_channels": (64, 128, 96)},
    "classes": {"num_class_embeds": 3},
    "blocks": {"norm_num_groups": 32, "down_block_types": ("SkipDownBlock2D", "AttnDownBlock2D", "SkipDownBlock2D")},
}


def ve(network: Any) -> Any:
    """Return the score model of a U-Net on VE."""
    return sf.from_diffusers(network, diffusers().ScoreSdeVeScheduler(sigma_max=380.0))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("centred", [False, True])
def test_same_outputs(layers: int, centred: bool) -> None:
    """Outputs agree to 1e-5 at small and large noise, for inputs in [0, 1] and in [-1, 1]."""
    network = unet(**NCSNPP | {"layers_per_block": layers, "center_input_sample": centred})
    model = ve(network)
    assert isinstance(model.network, NCSNpp)
    noise = torch.randn(3, 3, 16, 16)
    sigma = torch.tensor([0.02, 2.0, 300.0])
    x = 0.5 + sigma.view(-1, 1, 1, 1) * noise
    with torch.no_grad():
        ours, theirs = model.network(x, sigma), network(x, sigma).sample
    scale = theirs.abs().amax(dim=(1, 2, 3))
    assert ((ours - theirs).abs().amax(dim=(1, 2, 3)) <= 1e-5 * scale).all()


def test_folded_samples() -> None:
    """The folded network ends a run in the states in which the U-Net, wrapped as it is, ends it."""
    network = unet(**NCSNPP)
    model = ve(network)
    wrapped = sf.wrap(network, model.sde, prediction="score", shape=model.image_shape, data_range=model.data_range)
    states = [sf.Sampler(each, "ddim", 5, grid="karras").runner.run([0, 1]) for each in (model, wrapped)]
    assert (states[0] - states[1]).abs().max() <= 1e-5 * states[1].abs().max()


@pytest.mark.parametrize("difference", OTHERS)
def test_other_networks_are_wrapped(difference: str) -> None:
    """A U-Net that computes something else is wrapped as it is."""
    model = ve(unet(**NCSNPP | OTHERS[difference]))
    assert isinstance(model.network, Adapter)
