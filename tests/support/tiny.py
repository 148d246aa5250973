# SPDX-License-Identifier: Apache-2.0
"""A small NCSN++ that is sensitive to any difference between two runs."""

from __future__ import annotations

import torch

import scoresde_fast as sf

TINY = {
    "data": {"image_size": 8, "centered": False},
    "model": {"name": "ncsnpp", "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4],
              "scale_by_sigma": True, "init_scale": 1.0, "sigma_max": 10.0},
    "training": {"sde": "vesde"},
    "sampling": {"predictor": "reverse_diffusion", "corrector": "langevin"},
}  # fmt: skip
ROUNDING = 12 * 50 * torch.finfo(torch.float32).eps
"""Rounding error of twelve evaluations of states up to 50, five prior standard deviations, in different batches."""


def tiny_model() -> sf.ScoreModel:
    """Return the model with fresh weights, the same at each call."""
    torch.manual_seed(0)
    return sf.create(TINY).eval()
