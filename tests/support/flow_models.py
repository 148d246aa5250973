# SPDX-License-Identifier: Apache-2.0
"""Small networks with fresh weights on every SDE, for tests of adaptive solvers and of the probability flow."""

from __future__ import annotations

import torch

import scoresde_fast as sf

SDES = ("vesde", "vpsde", "subvpsde", "cld")


def small_network(sde: str, *, centered: bool) -> sf.ScoreModel:
    """A network for 3 x 8 x 8 images."""
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
