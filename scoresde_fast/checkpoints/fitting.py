# SPDX-License-Identifier: Apache-2.0
"""Which presets a set of official weights belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import torch
from torch import Size, Tensor

from scoresde_fast.checkpoints.weights import misfit, official_weights
from scoresde_fast.configs import Config, DataConfig, TrainingConfig, load_config, preset_names
from scoresde_fast.model import build_network


def fitting_presets(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the presets whose network has exactly these weights: official names, shapes and noise levels.

    Several may fit: VP and sub-VP, discrete and continuous training can share a network.
    """
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    fitting = []
    for preset in preset_names():
        config = load_config(preset)
        if has_noise_levels(config, weights) and not misfit(_shapes(_network_alone(config)), shapes):
            fitting.append(preset)
    return fitting


def has_noise_levels(config: Config, weights: Mapping[str, Tensor]) -> bool:
    """Whether ``sigmas`` are the noise levels of ``config``; always so for VP and sub-VP, where nothing reads them.

    Shapes alone do not tell the 256 px models apart, whose ``sigma_max`` differ.
    """
    model, sigmas = config.model, weights.get("sigmas")
    if config.training.sde != "vesde":
        return True
    if sigmas is None or sigmas.shape != (model.num_scales,):
        return False
    ends = torch.tensor([model.sigma_max, model.sigma_min], dtype=torch.float64)
    return torch.allclose(sigmas[[0, -1]].double(), ends, rtol=1e-4)


def _network_alone(config: Config) -> Config:
    """``config`` without what leaves the network's weights as they are, so that each network is built once."""
    return Config(
        model=replace(config.model, dropout=0.0, ema_rate=0.0, scale_by_sigma=False),
        training=TrainingConfig("vesde"),
        data=DataConfig(image_size=config.data.image_size, num_channels=config.data.num_channels),
    )


@cache
def _shapes(config: Config) -> dict[str, Size]:
    with torch.device("meta"):
        network = build_network(config)
    return {weight.name: weight.tensor.shape for weight in official_weights(network)}
