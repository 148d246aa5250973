# SPDX-License-Identifier: Apache-2.0
"""Score models: a network, an SDE, and the parametrisation that turns the network's output into the score."""

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
from scoresde_fast.networks import DDPM, MLP, NCSNpp, ResNet
from scoresde_fast.sdes import CLDSDE, SDE, SDES, VESDE, VPSDE, Array, LinearBetaSDE, ScalarSDE, Time
from scoresde_fast.sdes.base import as_times

NETWORKS: dict[str, type[nn.Module]] = {"ncsnpp": NCSNpp, "ddpm": DDPM, "mlp": MLP, "resnet": ResNet}


@dataclass(frozen=True)
class Parametrisation:
    """The time labels of a network and the factors from its output to the score, in float64.

    In continuous time the label is ``label_scale`` t (VP, sub-VP), sigma(t) (VE) or t (CLD).  With ``num_scales``
    discrete steps it is the number of the step, on VE counted from the largest noise level.  The output of a VE network
    is the score.  VP and sub-VP networks predict the noise, and the score is -output / std.  CLD networks predict the
    noise of v, and its score is -l_t output.  A ``mixed`` score adds the score of Gaussian data: -x (VP), -v / S_vv
    (CLD).
    """

    sde: SDE
    continuous: bool = True
    num_scales: int = 1000
    mixed: bool = False
    label_scale: float = 999.0

    def labels(self, t: Time) -> Array:
        """The network's time labels at times ``t``."""
        t = as_times(t)
        if isinstance(self.sde, CLDSDE):
            return t
        if isinstance(self.sde, VESDE):
            return self.sde.sigma(t) if self.continuous else np.round((self.sde.T - t) * (self.num_scales - 1))
        # Official score_sde models take 999 for every num_scales.
        continuous = self.continuous or not isinstance(self.sde, VPSDE)
        return t * (self.label_scale if continuous else self.num_scales - 1)

    def output_scale(self, t: Time) -> Array:
        """The factor of the network's output in the score = `output_scale` output + `state_scale` x, on CLD v for x."""
        t = as_times(t)
        if isinstance(self.sde, CLDSDE):
            return -self.sde.ell(t)
        if isinstance(self.sde, VESDE):
            return np.ones_like(t)
        if not self.continuous and isinstance(self.sde, VPSDE):
            return -1 / self.sde.discrete_std(self.labels(t), self.num_scales)
        assert isinstance(self.sde, ScalarSDE)
        return -1 / self.sde.marginal(t).std

    def state_scale(self, t: Time) -> Array:
        """The factor of the state in the score, on CLD of the velocity; 0 unless the score is mixed."""
        t = as_times(t)
        if not self.mixed:
            return np.zeros_like(t)
        return -1 / self.sde.mixed_variance(t) if isinstance(self.sde, CLDSDE) else -np.ones_like(t)


class ScoreFunction(nn.Module):
    """The score of p_t for every t, from a network and its `Parametrisation`.

    Args:
        network: ``network(x, labels)``, (B, *state_shape), (B,) -> (B, *image_shape).
        parametrisation: the SDE, the labels of the network and the scale of its output.
        image_shape: (C, H, W) of one sample.
        centered: whether data is in [-1, 1], and not in [0, 1].
        is_image: whether samples are images, and not points, whose range is not changed.
    """

    def __init__(
        self,
        network: nn.Module,
        parametrisation: Parametrisation,
        image_shape: tuple[int, ...],
        *,
        centered: bool,
        is_image: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        self.parametrisation = parametrisation
        self.image_shape = tuple(image_shape)
        self.centered = centered
        self.is_image = is_image

    @property
    def sde(self) -> SDE:
        """The SDE of the marginals p_t."""
        return self.parametrisation.sde

    @property
    def state_shape(self) -> tuple[int, ...]:
        """The shape of one state: ``image_shape``, or on CLD (2C, H, W) for position and velocity."""
        return (self.sde.parts * self.image_shape[0], *self.image_shape[1:])

    def prior(self, normals: Tensor) -> Tensor:
        """Standard normals (B, *state_shape) -> states at T."""
        parts = normals.chunk(self.sde.parts, dim=1)
        return torch.cat([std * part for std, part in zip(self.sde.prior_stds, parts, strict=True)], dim=1)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """grad_x log p_t(x) at each sample's own time: (B, *state_shape), (B,) -> (B, *image_shape).

        On CLD ``x`` is the pair of position and velocity, and the score is that of the velocity.

        Raises:
            ValueError: ``x`` has another shape.
        """
        if x.shape[1:] != self.state_shape:
            pair = ", position and velocity joined on the channels" if self.sde.parts == 2 else ""
            raise ValueError(
                f"states have shape {tuple(x.shape[1:])}; this model's, on the SDE {self.sde.name!r}, are "
                f"{self.state_shape}{pair}"
            )
        # Coefficients are computed in float64 on the host and rounded once; a sampler's loop has them in a table.
        times = t.detach().double().cpu().numpy()
        p = self.parametrisation
        labels, output_scale, state_scale = (
            torch.from_numpy(values).to(x.device, x.dtype)
            for values in (p.labels(times), p.output_scale(times), p.state_scale(times))
        )
        column = (-1, *[1] * (x.ndim - 1))
        score = self.network(x, labels) * output_scale.view(column)
        return score + state_scale.view(column) * x.chunk(self.sde.parts, dim=1)[-1] if p.mixed else score

    forward = score

    def probability_flow(self, x: Tensor, t: Tensor) -> Tensor:
        """dx/dt of the probability-flow ODE: (B, *state_shape), (B,) -> (B, *state_shape).

        f - g^2 score / 2 (Song et al. 2021, equation 13); on CLD, with noise in v alone, F u - (0, Gamma beta s_v).

        Raises:
            ValueError: as `score`.
        """
        score = self.score(x, t)
        times = t.detach().double().cpu().numpy()

        def column(values: Array) -> Tensor:
            return torch.from_numpy(values).to(x.device, x.dtype).view(-1, *[1] * (x.ndim - 1))

        if isinstance(self.sde, CLDSDE):
            position, velocity = x.chunk(2, dim=1)
            drift = self.sde.drift(times)
            force = column(drift[:, 1, 0]) * position + column(drift[:, 1, 1]) * velocity
            noise = column(self.sde.diffusion(times) ** 2 / 2)
            return torch.cat([column(drift[:, 0, 1]) * velocity, force - noise * score], dim=1)
        assert isinstance(self.sde, ScalarSDE)
        drift_x, drift_score, _ = self.sde.reverse(times, probability_flow=True)
        return column(drift_x) * x + column(drift_score) * score

    def from_images(self, images: Tensor) -> Tensor:
        """Images in [0, 1] -> the range of this model's data; points are returned unchanged."""
        return 2 * images - 1 if self.centered and self.is_image else images

    def to_images(self, x: Tensor) -> Tensor:
        """Samples -> images clipped to [0, 1]; points are returned unchanged."""
        return ((x + 1) / 2 if self.centered else x).clamp(0, 1) if self.is_image else x


class ScoreModel(ScoreFunction, PyTorchModelHubMixin):
    """A score model from a configuration, with fresh weights.

    ``save_pretrained`` and ``from_pretrained`` use ``config.json`` and ``model.safetensors``.

    Args:
        config: the name of a preset, a mapping in the official form, a JSON file with such a mapping, or a `Config`.

    Raises:
        ValueError: the configuration is not valid; the message names the option.
    """

    def __init__(self, config: ConfigLike) -> None:
        parsed = load_config(config)
        data, model, training = parsed.data, parsed.model, parsed.training
        super().__init__(
            build_network(parsed),
            Parametrisation(
                build_sde(parsed), training.continuous, model.num_scales, model.mixed_score, model.label_scale
            ),
            (data.num_channels, data.image_size, data.image_size),
            centered=data.centered,
            is_image=data.is_image,
        )
        self.config = parsed
        self._hub_mixin_config = parsed.to_dict()


def build_sde(config: Config) -> SDE:
    """Return the SDE of a configuration."""
    sde, model = SDES[config.training.sde], config.model
    if issubclass(sde, CLDSDE):
        return sde(**vars(config.cld))
    if issubclass(sde, LinearBetaSDE):
        return sde(model.beta_min, model.beta_max)
    assert issubclass(sde, VESDE)
    return sde(model.sigma_min, model.sigma_max)


def build_network(config: Config) -> nn.Module:
    """Return the network of a configuration with fresh weights; arguments take the options of the same name."""
    network = NETWORKS[config.model.name]
    in_channels = SDES[config.training.sde].parts * config.data.num_channels
    options: Mapping[str, Any] = {**vars(config.model), **vars(config.data), "in_channels": in_channels}
    return network(**{name: options[name] for name in inspect.signature(network).parameters if name in options})


def create(config: ConfigLike) -> ScoreModel:
    """Return a score model with fresh weights; arguments and errors are those of `ScoreModel`."""
    return ScoreModel(config)
