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
    """Whether ``sigmas`` are the noise levels of ``config``; always so but for VE, where nothing else reads them.

    Shapes alone do not tell the 256 px models apart, whose ``sigma_max`` differ.
    """
    model, sigmas = config.model, weights.get("sigmas")
    if config.training.sde != "vesde":
        return True
    if sigmas is None or sigmas.shape != (model.num_scales,):
        return False
    ends = torch.tensor([model.sigma_max, model.sigma_min], dtype=torch.float64)
    return torch.allclose(sigmas[[0, -1]].double(), ends, rtol=1e-4)


def other_kind(config: Config, weights: Mapping[str, Tensor]) -> str:
    """In words, what makes ``weights`` another kind of model than ``config``; empty where nothing tells.

    CLD's networks read two images, position and velocity, and give one.  CLD-SGM's have no noise levels, score_sde's
    all have.
    """
    sde, scales = config.training.sde, config.model.num_scales
    image = config.data.num_channels
    kernels = [tensor.shape for tensor in weights.values() if tensor.ndim == 4]
    reads, gives = (kernels[0][1], kernels[-1][0]) if kernels else (0, 0)
    if sde != "cld" and reads == 2 * gives > 0:
        return (
            f"is of a CLD model: its network reads {reads} channels, position and velocity, where one of the SDE "
            f"{sde!r} reads {image}, an image"
        )
    if sde == "cld" and reads == gives > 0:
        return (
            f"is not of a CLD model: its network reads {reads} channels, an image, where one of the SDE 'cld' reads "
            f"{2 * image}, position and velocity"
        )
    if "sigmas" in weights and not scales:
        return (
            "has noise levels 'sigmas', as models of score_sde have, and the configuration is of a model without: its "
            "model.num_scales is 0"
        )
    if "sigmas" not in weights and scales:
        return (
            "has no noise levels 'sigmas', as models of CLD-SGM have none, and the configuration is of a model with: "
            f"its model.num_scales is {scales}, not 0"
        )
    return ""


def _network_alone(config: Config) -> Config:
    """``config`` without what leaves the network's weights as they are, so that each network is built once."""
    data = config.data
    return Config(
        model=replace(config.model, dropout=0.0, ema_rate=0.0, scale_by_sigma=False, mixed_score=False),
        # Of the SDE a network knows whether it reads pairs.
        training=TrainingConfig("cld" if config.training.sde == "cld" else "vpsde"),
        data=DataConfig(image_size=data.image_size, num_channels=data.num_channels, is_image=data.is_image),
    )


@cache
def _shapes(config: Config) -> dict[str, Size]:
    with torch.device("meta"):
        network = build_network(config)
    return {weight.name: weight.tensor.shape for weight in official_weights(network)}
