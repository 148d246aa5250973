# SPDX-License-Identifier: Apache-2.0
"""Small configurations and checkpoints in the official format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from scoresde_fast.checkpoints.official import official_weights
from scoresde_fast.configs import load_config
from scoresde_fast.model import ScoreModel, build_network

SMALL: dict[str, Any] = {
    "data": {"image_size": 8},
    "model": {"name": "ncsnpp", "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4]},
    "training": {"sde": "vesde"},
}
SMALL_CLD: dict[str, Any] = {
    "data": {"image_size": 8, "centered": True},
    "model": {**SMALL["model"], "num_scales": 0, "mixed_score": True},
    "training": {"sde": "cld"},
}
SMALL_VP: dict[str, Any] = {**SMALL_CLD, "training": {"sde": "vpsde"}}


def official_file(path: Path, config: dict[str, Any] = SMALL, **changes: Any) -> Path:
    """Write a checkpoint of fresh weights in the official format, with EMA weights equal to the raw ones plus 1."""
    torch.manual_seed(0)
    weights = official_weights(ScoreModel(config).network)
    content = {
        "optimizer": {"param_groups": [{"lr": 2e-4}]},
        "model": {f"module.{name}": weight.detach() for name, weight in weights.items()},
        "ema": {
            "decay": 0.999,
            "num_updates": 7,
            "shadow_params": [weight.detach() + 1 for weight in weights.values() if weight.requires_grad],
        },
        "step": 7,
    }
    torch.save(content | changes, path)
    return path


def preset_weights(preset: str) -> dict[str, torch.Tensor]:
    """Return the weights of a preset's network by official name, on the meta device except for the noise levels."""
    config = load_config(preset)
    with torch.device("meta"):
        weights = official_weights(build_network(config))
    model = config.model
    if model.num_scales:
        weights["sigmas"] = torch.linspace(np.log(model.sigma_max), np.log(model.sigma_min), model.num_scales).exp()
    return weights


def first_weight(model: ScoreModel) -> torch.Tensor:
    return next(weight for weight in official_weights(model.network).values() if weight.requires_grad).detach()
