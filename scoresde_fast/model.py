# SPDX-License-Identifier: Apache-2.0
"""Score models: a network, an SDE, and the parametrisation that converts the network's output to the score."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from scoresde_fast.configs import Config, ConfigLike, load_config
from scoresde_fast.networks import DDPM, MLP, NCSNpp, ResNet
from scoresde_fast.sdes import CLDSDE, SDE, SDES, VESDE, VPSDE, Array, ScalarSDE, Time
from scoresde_fast.sdes.base import as_times

NETWORKS: dict[str, type[nn.Module]] = {"ncsnpp": NCSNpp, "ddpm": DDPM, "mlp": MLP, "resnet": ResNet}


@dataclass(frozen=True)
class Parametrisation:
    """The time labels of a network and the coefficients of its score, in float64.

    Labels: ``label_scale`` t (VP, sub-VP), sigma(t) (VE) or t (CLD).  If not ``continuous``, the label on VE and VP is
    the index of one of ``num_scales`` steps; VE counts them from the largest noise level.

    Scores: a VE network outputs the score.  VP and sub-VP networks predict the noise: the score is -output / std.  CLD
    networks predict the noise of v: its score is -l_t output.  A ``mixed`` score adds the score of normal data: -x
    (VP), -v / S_vv (CLD).
    """

    sde: SDE
    continuous: bool = True
    num_scales: int = 1000
    mixed: bool = False
    label_scale: float = 999.0

    def labels(self, t: Time) -> Array:
        """Return the network's time labels at times ``t``.

        Raises:
            ValueError: the SDE is not an official one; derive a class that defines `labels` and `output_scale`.
        """
        t = as_times(t)
        if not isinstance(self.sde, tuple(SDES.values())):
            raise ValueError(
                f"the time labels of networks on the SDE {self.sde.name!r} are not known: derive a Parametrisation "
                "with labels(t) and output_scale(t)"
            )
        if isinstance(self.sde, CLDSDE):
            return t
        if isinstance(self.sde, VESDE):
            return self.sde.sigma(t) if self.continuous else np.round((self.sde.T - t) * (self.num_scales - 1))
        # Official score_sde models use 999 for every num_scales.
        continuous = self.continuous or not isinstance(self.sde, VPSDE)
        return t * (self.label_scale if continuous else self.num_scales - 1)

    def output_scale(self, t: Time) -> Array:
        """Return the factor of the output in score = `output_scale` output + `state_scale` x; on CLD x is v."""
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
        """Return the factor of the state, on CLD of the velocity, in the score; 0 unless the score is mixed."""
        t = as_times(t)
        if not self.mixed:
            return np.zeros_like(t)
        return -1 / self.sde.mixed_variance(t) if isinstance(self.sde, CLDSDE) else -np.ones_like(t)


def as_column(values: Array, like: Tensor) -> Tensor:
    """Return NumPy values (B,) as a tensor (B, 1, ...) that broadcasts with ``like``, with its dtype and device."""
    return torch.from_numpy(values).to(like.device, like.dtype).view(-1, *[1] * (like.ndim - 1))


class ScoreFunction(nn.Module):
    """The score of p_t for every t, computed by a network and its `Parametrisation`.

    Args:
        network: ``network(x, labels)``, (B, *state_shape), (B,) -> (B, *image_shape).
        parametrisation: the SDE, the labels of the network and the scale of its output.
        image_shape: (C, H, W) of one sample.
        centered: whether data is in [-1, 1]; otherwise it is in [0, 1].
        is_image: whether samples are images; otherwise they are points, which are neither scaled nor clipped.
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
        """SDE with the marginals p_t."""
        return self.parametrisation.sde

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one state: ``image_shape``, or on CLD (2C, H, W) for position and velocity."""
        return (self.sde.parts * self.image_shape[0], *self.image_shape[1:])

    def prior(self, normals: Tensor) -> Tensor:
        """Return states at T from standard normals (B, *state_shape)."""
        parts = normals.chunk(self.sde.parts, dim=1)
        return torch.cat([std * part for std, part in zip(self.sde.prior_stds, parts, strict=True)], dim=1)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return grad_x log p_t(x) for a time per sample: (B, *state_shape), (B,) -> (B, *image_shape).

        On CLD ``x`` is position and velocity, and the score is that of the velocity.

        Raises:
            ValueError: the shape of ``x`` is not that of states.
        """
        if x.shape[1:] != self.state_shape:
            pair = ", position and velocity concatenated along the channels" if self.sde.parts == 2 else ""
            raise ValueError(
                f"states have shape {tuple(x.shape[1:])}; this model on the SDE {self.sde.name!r} needs "
                f"{self.state_shape}{pair}"
            )
        # Coefficients are computed in float64 on the host and rounded once.
        times, p = t.detach().double().cpu().numpy(), self.parametrisation
        labels = torch.from_numpy(p.labels(times)).to(x.device, x.dtype)
        output_scale, state_scale = (as_column(scale, x) for scale in (p.output_scale(times), p.state_scale(times)))
        score = self.network(x, labels) * output_scale
        return score + state_scale * x.chunk(self.sde.parts, dim=1)[-1] if p.mixed else score

    forward = score

    def probability_flow(self, x: Tensor, t: Tensor) -> Tensor:
        """Return dx/dt of the probability-flow ODE: (B, *state_shape), (B,) -> (B, *state_shape).

        f - g^2 score / 2 (Song et al. 2021, equation 13); on CLD, which has noise in v only, F u - (0, Gamma beta s_v).

        Raises:
            ValueError: as `score`.
        """
        score, times = self.score(x, t), t.detach().double().cpu().numpy()
        if isinstance(self.sde, CLDSDE):
            position, velocity = x.chunk(2, dim=1)
            drift = self.sde.drift(times)
            force = as_column(drift[:, 1, 0], x) * position + as_column(drift[:, 1, 1], x) * velocity
            noise = as_column(self.sde.diffusion(times) ** 2 / 2, x)
            return torch.cat([as_column(drift[:, 0, 1], x) * velocity, force - noise * score], dim=1)
        assert isinstance(self.sde, ScalarSDE)
        drift_x, drift_score, _ = self.sde.reverse(times, probability_flow=True)
        return as_column(drift_x, x) * x + as_column(drift_score, x) * score

    def from_images(self, images: Tensor) -> Tensor:
        """Return images in [0, 1] scaled to the range of this model's data; points are unchanged."""
        return 2 * images - 1 if self.centered and self.is_image else images

    def to_images(self, x: Tensor) -> Tensor:
        """Return samples as images clipped to [0, 1]; points are unchanged."""
        if not self.is_image:
            return x
        return ((x + 1) / 2 if self.centered else x).clamp(0, 1)


class ScoreModel(ScoreFunction, PyTorchModelHubMixin):
    """A score model built from a configuration, with fresh weights.

    ``save_pretrained`` and ``from_pretrained`` use ``config.json`` and ``model.safetensors``.

    Args:
        config: name of a preset, a mapping in the official format, a JSON file with such a mapping, or a `Config`.

    Raises:
        ValueError: the configuration is not valid.
    """

    def __init__(self, config: ConfigLike) -> None:
        parsed = load_config(config)
        data, model, training = parsed.data, parsed.model, parsed.training
        parametrisation = Parametrisation(
            build_sde(parsed),
            continuous=training.continuous,
            num_scales=model.num_scales,
            mixed=model.mixed_score,
            label_scale=model.label_scale,
        )
        super().__init__(
            build_network(parsed),
            parametrisation,
            (data.num_channels, data.image_size, data.image_size),
            centered=data.centered,
            is_image=data.is_image,
        )
        self.config = parsed
        self._hub_mixin_config = parsed.to_dict()


def build_sde(config: Config) -> SDE:
    """Return the SDE of a configuration; its fields are the options of the same name, in "model" or "cld"."""
    sde = SDES[config.training.sde]
    options: Mapping[str, Any] = {**vars(config.model), **vars(config.cld)}
    return sde(**{field.name: options[field.name] for field in fields(sde) if field.name in options})


def build_network(config: Config) -> nn.Module:
    """Return the network of a configuration with fresh weights; its arguments are the options of the same name."""
    network = NETWORKS[config.model.name]
    in_channels = SDES[config.training.sde].parts * config.data.num_channels
    options: Mapping[str, Any] = {**vars(config.model), **vars(config.data), "in_channels": in_channels}
    return network(**{name: options[name] for name in inspect.signature(network).parameters if name in options})


def create(config: ConfigLike) -> ScoreModel:
    """Return a score model with fresh weights; arguments and errors are those of `ScoreModel`."""
    return ScoreModel(config)


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Return the hash of a model's weights and its configuration (or its class, if it has none), as JSON values."""
    config = getattr(model, "config", None)
    return {
        "weights_sha256": weights_sha256(model),
        "config": type(model).__name__ if config is None else config.to_dict(),
    }


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of a model's weights and buffers: their names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
