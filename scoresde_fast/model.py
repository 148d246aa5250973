# SPDX-License-Identifier: Apache-2.0
"""Score models: a network, an SDE, and how the network's output becomes the score."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from scoresde_fast.configs import Config, ConfigLike, load_config
from scoresde_fast.networks import DDPM, NCSNpp
from scoresde_fast.sdes import SDE, SDES, VESDE, VPSDE, Array, LinearBetaSDE, Time
from scoresde_fast.sdes.base import as_times

NETWORKS: dict[str, type[nn.Module]] = {"ncsnpp": NCSNpp, "ddpm": DDPM}


@dataclass(frozen=True)
class Parametrisation:
    """What a network is told about time, and the factor from its output to the score, in float64 (reference.md, 1).

    Models of continuous time see 999 t (VP, sub-VP) or sigma(t) (VE); those of ``num_scales`` discrete steps see the
    step's number, on VE counted from the largest noise level.  A VE network's output is the score; VP and sub-VP
    networks predict the noise, and the score is -output / std.
    """

    sde: SDE
    continuous: bool = True
    num_scales: int = 1000

    def labels(self, t: Time) -> Array:
        """The network's time labels at times ``t``."""
        t = as_times(t)
        if isinstance(self.sde, VESDE):
            return self.sde.sigma(t) if self.continuous else np.round((self.sde.T - t) * (self.num_scales - 1))
        # The factor is 999 for every continuous model, whatever its num_scales: so the official ones were trained.
        return t * 999 if self.continuous or not isinstance(self.sde, VPSDE) else t * (self.num_scales - 1)

    def output_scale(self, t: Time) -> Array:
        """The factor s of score = s network(x, labels(t))."""
        t = as_times(t)
        if isinstance(self.sde, VESDE):
            return np.ones_like(t)
        if not self.continuous and isinstance(self.sde, VPSDE):
            return -1 / self.sde.discrete_std(self.labels(t), self.num_scales)
        return -1 / self.sde.marginal(t).std


class ScoreFunction(nn.Module):
    """The score of p_t for every t: a network read through a `Parametrisation`.

    Args:
        network: ``network(x, labels)``, (B, *image_shape), (B,) -> (B, *image_shape).
        parametrisation: its SDE, its labels and its output's meaning.
        image_shape: (C, H, W) of one sample.
        centered: data is in [-1, 1] at t = 0, else in [0, 1].
    """

    def __init__(
        self, network: nn.Module, parametrisation: Parametrisation, image_shape: tuple[int, ...], *, centered: bool
    ) -> None:
        super().__init__()
        self.network = network
        self.parametrisation = parametrisation
        self.image_shape = tuple(image_shape)
        self.centered = centered

    @property
    def sde(self) -> SDE:
        """The SDE whose marginals these are the scores of."""
        return self.parametrisation.sde

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """grad_x log p_t(x) at each sample's own time: (B, *image_shape), (B,) -> (B, *image_shape)."""
        # Coefficients are made in float64 on the host, then rounded once; a sampler's loop takes them from a table.
        times = t.detach().double().cpu().numpy()
        labels = torch.from_numpy(self.parametrisation.labels(times)).to(x.device, x.dtype)
        scale = torch.from_numpy(self.parametrisation.output_scale(times)).to(x.device, x.dtype)
        return self.network(x, labels) * scale.view(-1, *[1] * (x.ndim - 1))

    forward = score

    def from_images(self, images: Tensor) -> Tensor:
        """Images in [0, 1] -> the range of this model's data."""
        return 2 * images - 1 if self.centered else images

    def to_images(self, x: Tensor) -> Tensor:
        """Samples -> images clipped to [0, 1]."""
        return ((x + 1) / 2 if self.centered else x).clamp(0, 1)


class ScoreModel(ScoreFunction, PyTorchModelHubMixin):
    """A score model built from a configuration, with fresh weights.

    ``save_pretrained`` and ``from_pretrained`` keep it as ``config.json`` and ``model.safetensors``.

    Args:
        config: a preset's name, a mapping in the original's form, a JSON file with one, or a `Config`.

    Raises:
        ValueError: the configuration is not valid; the sentence names the option.
    """

    def __init__(self, config: ConfigLike) -> None:
        parsed = load_config(config)
        data, model, training = parsed.data, parsed.model, parsed.training
        super().__init__(
            build_network(parsed),
            Parametrisation(build_sde(parsed), training.continuous, model.num_scales),
            (data.num_channels, data.image_size, data.image_size),
            centered=data.centered,
        )
        self.config = parsed
        self._hub_mixin_config = parsed.to_dict()


def build_sde(config: Config) -> SDE:
    """The SDE that a configuration names, with its noise levels."""
    sde, model = SDES[config.training.sde], config.model
    if issubclass(sde, LinearBetaSDE):
        return sde(model.beta_min, model.beta_max)
    assert issubclass(sde, VESDE)
    return sde(model.sigma_min, model.sigma_max)


def build_network(config: Config) -> nn.Module:
    """The network that a configuration describes, with fresh weights: options go to the arguments of their name."""
    network = NETWORKS[config.model.name]
    options: Mapping[str, Any] = {**vars(config.model), **vars(config.data)}
    return network(**{name: options[name] for name in inspect.signature(network).parameters if name in options})


def create(config: ConfigLike) -> ScoreModel:
    """A score model with fresh weights; the arguments and errors of `ScoreModel`."""
    return ScoreModel(config)
