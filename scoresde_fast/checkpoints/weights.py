# SPDX-License-Identifier: Apache-2.0
"""Official weight names, how weights differ from a network, and the presets that they fit."""

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
    """One weight: its name in official checkpoints, its tensor here, and whether it is trainable."""

    name: str
    tensor: Tensor
    trainable: bool


def official_weights(network: nn.Module) -> list[Weight]:
    """Return all weights of ``network`` in the original's order, which is that of its EMA list; ``sigmas`` is first."""
    sigmas = dict(network.named_buffers(recurse=False)).get("sigmas")
    weights = [] if sigmas is None else [Weight("sigmas", sigmas, False)]
    for index, module in enumerate(official_modules(network)):
        for path, tensor in module.state_dict(keep_vars=True).items():
            weights.append(Weight(f"all_modules.{index}.{_official(module, path)}", tensor, tensor.requires_grad))
    return weights


def _official(module: nn.Module, path: str) -> str:
    """Return the official name of the tensor at ``path``: composite modules name their parts, leaves keep theirs."""
    part, _, leaf = path.rpartition(".")
    names: Mapping[str, str] = getattr(module, "OFFICIAL_NAMES", {})
    return f"{names[part]}.{leaf}" if part else leaf


def misfit(wanted: Mapping[str, Size], found: Mapping[str, Size]) -> str:
    """Return which weights are missing from ``found``, unexpected or misshapen; empty when all fit."""
    misshapen = [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    parts = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "misshapen": misshapen,
    }
    return "; ".join(f"{kind}: {_listed(names)}" for kind, names in parts.items() if names)


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


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
    """Return whether ``sigmas`` are the noise levels of ``config``; always true except for VE, which alone reads them.

    Shapes alone do not distinguish the 256 px models, which have different ``sigma_max``.
    """
    model, sigmas = config.model, weights.get("sigmas")
    if config.training.sde != "vesde":
        return True
    if sigmas is None or sigmas.shape != (model.num_scales,):
        return False
    ends = torch.tensor([model.sigma_max, model.sigma_min], dtype=torch.float64)
    return torch.allclose(sigmas[[0, -1]].double(), ends, rtol=1e-4)


def other_kind(config: Config, weights: Mapping[str, Tensor]) -> str:
    """Return a sentence that says why ``weights`` are of another kind of model than ``config``; empty if unknown.

    The networks of CLD read position and velocity and return one image. Those of CLD-SGM have no noise levels, those of
    score_sde always have.
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
            "has noise levels 'sigmas', like models of score_sde, but the configuration has none: its model.num_scales "
            "is 0"
        )
    if "sigmas" not in weights and scales:
        return (
            "has no noise levels 'sigmas', like models of CLD-SGM, but the configuration has some: its "
            f"model.num_scales is {scales}, not 0"
        )
    return ""


def _network_options(config: Config) -> Config:
    """Return ``config`` reduced to the options that shape the network, so that each network is built once."""
    data = config.data
    return Config(
        model=replace(config.model, dropout=0.0, ema_rate=0.0, scale_by_sigma=False, mixed_score=False),
        # The SDE only decides whether the network reads pairs.
        training=TrainingConfig("cld" if config.training.sde == "cld" else "vpsde"),
        data=DataConfig(image_size=data.image_size, num_channels=data.num_channels, is_image=data.is_image),
    )


@cache
def _shapes(config: Config) -> dict[str, Size]:
    with torch.device("meta"):
        network = build_network(config)
    return {weight.name: weight.tensor.shape for weight in official_weights(network)}
