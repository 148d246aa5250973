# SPDX-License-Identifier: Apache-2.0
"""Small networks with fresh weights on every SDE, for the tests of adaptive solvers and the probability flow."""

from __future__ import annotations

import torch
from torch import Tensor

import scoresde_fast as sf
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, SubVPSDE

LONG_SDES: dict[str, SDE] = {
    "ve": VESDE(0.01, 5000.0),
    "vp": VPSDE(0.1, 40.0),
    "subvp": SubVPSDE(0.1, 40.0),
    "cld": CLDSDE(beta0=8.0),
}
"""SDEs whose state at T has no trace of the data, so that the model's density equals that of the data."""
SDES = ("vesde", "vpsde", "subvpsde", "cld")


def small_network(sde: str, *, centered: bool) -> sf.ScoreModel:
    """Return a model of 3 x 8 x 8 images."""
    torch.manual_seed(0)
    network = {
        "name": "ncsnpp",
        "nf": 8,
        "ch_mult": [1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [4],
        "scale_by_sigma": True,
    }
    data = {"image_size": 8, "num_channels": 3, "centered": centered}
    return sf.create({"data": data, "model": network, "training": {"sde": sde}})


def mixture(name: str, shape: tuple[int, ...], components: int = 3) -> tuple[sf.GaussianMixture, Tensor]:
    """Return a mixture, and four samples near its components."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(components, *shape, generator=generator, dtype=torch.float64)
    stds = [0.3, 0.2, 0.4][:components]
    model = sf.GaussianMixture(LONG_SDES[name], [0.2, 0.3, 0.5][:components], means, stds, is_image=False)
    which = torch.arange(4) % components
    noise = torch.randn(4, *shape, generator=generator, dtype=torch.float64)
    return model, means[which] + torch.tensor(stds)[which].view(-1, 1, 1, 1) * noise
