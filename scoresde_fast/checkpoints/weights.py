# SPDX-License-Identifier: Apache-2.0
"""Official names of weights, comparison of weights with a network, and the presets that weights fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Size, Tensor, nn

from scoresde_fast.configs import Config, DataConfig, TrainingConfig, load_config, preset_names
from scoresde_fast.model import build_network
from scoresde_fast.networks import official_modules


@dataclass(frozen=True)
class Weight:
    """A weight: its name in official checkpoints, its tensor, and whether it is trainable."""

    name: str
    tensor: Tensor
    trainable: bool


def official_weights(network: nn.Module) -> list[Weight]:
    """Return all weights of ``network`` in the order of the official EMA list; ``sigmas`` is first."""
    sigmas = dict(network.named_buffers(recurse=False)).get("sigmas")
    weights = [] if sigmas is None else [Weight("sigmas", sigmas, False)]
    for index, module in enumerate(official_modules(network)):
        for path, tensor in module.state_dict(keep_vars=True).items():
            weights.append(Weight(f"all_modules.{index}.{_official(module, path)}", tensor, tensor.requires_grad))
    return weights


def _official(module: nn.Module, path: str) -> str:
    """Return the official name of the tensor at ``path`` in ``module``; composite modules map their parts' names."""
    part, _, leaf = path.rpartition(".")
    names: Mapping[str, str] = getattr(module, "OFFICIAL_NAMES", {})
    return f"{names[part]}.{leaf}" if part else leaf


def misfit(expected: Mapping[str, Size], actual: Mapping[str, Size]) -> str:
    """Describe the weights that are missing from ``actual``, unexpected or misshapen; empty if all fit."""
    misshapen = [
        f"{name} is {list(actual[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in actual and actual[name] != shape
    ]
    parts = {
        "missing": [name for name in expected if name not in actual],
        "unexpected": [name for name in actual if name not in expected],
        "misshapen": misshapen,
    }
    return "; ".join(f"{kind}: {_shortened(names)}" for kind, names in parts.items() if names)


def _shortened(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def fitting_presets(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the presets whose network has exactly these official names, shapes and noise levels.

    Several may fit: VP and sub-VP, or discrete and continuous models, can share a network.
    """
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    fitting = []
    for preset in preset_names():
        config = load_config(preset)
        if has_noise_levels(config, weights) and not misfit(_shapes(_network_options(config)), shapes):
            fitting.append(preset)
    return fitting


def has_noise_levels(config: Config, weights: Mapping[str, Tensor]) -> bool:
    """Return whether ``sigmas`` are the noise levels of ``config``; True for SDEs other than VE, which ignore them.

    Shapes alone do not distinguish the 256 px models, which differ in ``sigma_max``.
    """
    model, sigmas = config.model, weights.get("sigmas")
    if config.training.sde != "vesde":
        return True
    if sigmas is None or sigmas.shape != (model.num_scales,):
        return False
    ends = torch.tensor([model.sigma_max, model.sigma_min], dtype=torch.float64)
    return torch.allclose(sigmas[[0, -1]].double(), ends, rtol=1e-4)


def other_kind(config: Config, weights: Mapping[str, Tensor]) -> str:
    """Describe how ``weights`` belong to another kind of model than ``config``; empty if they do not.

    The networks of CLD take position and velocity and return one image. Checkpoints of CLD-SGM have no noise levels;
    those of score_sde always do.
    """
    sde, scales = config.training.sde, config.model.num_scales
    channels = config.data.num_channels
    kernels = [tensor.shape for tensor in weights.values() if tensor.ndim == 4]
    inputs, outputs = (kernels[0][1], kernels[-1][0]) if kernels else (0, 0)
    if sde != "cld" and inputs == 2 * outputs > 0:
        return (
            f"is a CLD model: its network takes {inputs} channels (position and velocity), but the SDE {sde!r} needs "
            f"{channels} (an image)"
        )
    if sde == "cld" and inputs == outputs > 0:
        return (
            f"is not a CLD model: its network takes {inputs} channels (an image), but the SDE 'cld' needs "
            f"{2 * channels} (position and velocity)"
        )
    if "sigmas" in weights and not scales:
        return "has noise levels 'sigmas', like models of score_sde, but model.num_scales of the configuration is 0"
    if "sigmas" not in weights and scales:
        return (
            "has no noise levels 'sigmas', like models of CLD-SGM, but model.num_scales of the configuration is "
            f"{scales}, not 0"
        )
    return ""


def _network_options(config: Config) -> Config:
    """Return ``config`` reduced to the options that determine the network's weights, the key of `_shapes`' cache."""
    data = config.data
    return Config(
        model=replace(config.model, dropout=0.0, ema_rate=0.0, scale_by_sigma=False, mixed_score=False),
        # The SDE only determines whether the network takes position and velocity.
        training=TrainingConfig("cld" if config.training.sde == "cld" else "vpsde"),
        data=DataConfig(image_size=data.image_size, num_channels=data.num_channels, is_image=data.is_image),
    )


@cache
def _shapes(config: Config) -> dict[str, Size]:
    with torch.device("meta"):
        network = build_network(config)
    return {weight.name: weight.tensor.shape for weight in official_weights(network)}
