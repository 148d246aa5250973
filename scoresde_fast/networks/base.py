# SPDX-License-Identifier: Apache-2.0
"""The base class of score networks, with time embeddings and the order of weights in official checkpoints.

To add a network, derive it from `ScoreNetwork`, export it from this package, and list it in
`scoresde_fast.model.NETWORKS` and in `ImageNetwork` of `scoresde_fast.configs.schema`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde_fast.networks.blocks import Activation, OperationsModule, dense

Features = tuple[Tensor, ...]
"""Features of a network, from which the rest of the ascending path computes the output."""


class ScoreNetwork(OperationsModule):
    """Base class of networks of images: a time embedding, a body, and a division by the noise level.

    Args:
        image_channels, input_channels: channels of the output and of the input.
        centered: whether inputs are in [-1, 1]; otherwise they are in [0, 1].
        act: activation.
        nf: base width; the time embedding is four times as wide.
        conditional: whether the network has a time embedding.
        scale_by_sigma: whether the output is divided by the noise level.
        sigmas: noise levels, largest first; None for a model without a table of noise levels.
        fourier_scale: scale of random Fourier features, for labels that are noise levels; None: sinusoidal embedding.
    """

    sigmas: Tensor | None

    def __init__(
        self,
        *,
        image_channels: int,
        input_channels: int,
        centered: bool,
        act: Activation,
        nf: int,
        conditional: bool,
        scale_by_sigma: bool,
        sigmas: Tensor | None,
        fourier_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.image_channels, self.input_channels = image_channels, input_channels
        self.centered, self.act, self.nf, self.scale_by_sigma = centered, act, nf, scale_by_sigma
        self.register_buffer("sigmas", sigmas)
        self.fourier = None if fourier_scale is None else FourierEmbedding(nf, fourier_scale)
        self.time0 = dense(nf if self.fourier is None else 2 * nf, 4 * nf) if conditional else None
        self.time1 = dense(4 * nf, 4 * nf) if conditional else None

    @abstractmethod
    def body(self, x: Tensor, temb: Tensor | None) -> Tensor:
        """Return the output before the division by the noise level, for inputs (B, C, H, W) in [-1, 1]."""

    # A network whose deep features can be reused (see `scoresde_fast.networks.feature_caching`) is a U-Net that
    # overrides these.

    @property
    def branches(self) -> int:
        """Number of skip connections; 0 for a network whose features cannot be reused."""
        return 0

    def deep(self, x: Tensor, temb: Tensor | None, keep: int) -> tuple[Features, list[Tensor]]:
        """Return the features of the ascending path where ``keep`` skip connections are left, and these."""
        raise NotImplementedError

    def descend(self, x: Tensor, temb: Tensor | None, count: int) -> list[Tensor]:
        """Return the first ``count`` skip connections."""
        raise NotImplementedError

    def shallow(self, features: Features, skips: list[Tensor], temb: Tensor | None) -> Tensor:
        """Return what `body` does, from the features of `deep` and the skip connections that are left."""
        raise NotImplementedError

    def embed(self, labels: Tensor) -> Tensor | None:
        """Return the activated time embedding (B, 4 nf) of labels (B,); None for an unconditional network."""
        if self.time0 is None or self.time1 is None:
            return None
        features = positional_embedding(labels, self.nf) if self.fourier is None else self.fourier(labels)
        return self.act(self.time1(self.act(self.time0(features))))

    def noise_level(self, labels: Tensor) -> Tensor | None:
        """Return the noise levels (B,) that divide the output, or None; labels are noise levels or indices of them."""
        if not self.scale_by_sigma:
            return None
        if self.fourier is not None:
            return labels
        assert self.sigmas is not None  # checked by `Config`
        return self.sigmas[labels.long()]

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the output (B, image channels, H, W) for inputs (B, input channels, H, W) and labels (B,)."""
        h = self.body(x if self.centered else 2 * x - 1, self.embed(labels))
        sigma = self.noise_level(labels)
        return h if sigma is None else h / sigma[:, None, None, None]


class Section(OperationsModule):
    """A group of layers; official checkpoints list the layers but not the group."""


def official_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Yield modules in the order of the official ``all_modules`` list: that of registration, without groups."""
    for child in module.children():
        if isinstance(child, Section | nn.ModuleList):
            yield from official_modules(child)
        else:
            yield child


class FourierEmbedding(nn.Module):
    """Gaussian Fourier features (sin, cos) of 2 pi W log(label), with fixed random frequencies ``W``."""

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(size) * scale, requires_grad=False)

    def forward(self, labels: Tensor) -> Tensor:
        """Return the features (B, 2 size) of positive noise levels (B,)."""
        angles = 2 * math.pi * labels.log()[:, None] * self.W[None, :]
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def positional_embedding(labels: Tensor, size: int, max_period: float = 10_000.0) -> Tensor:
    """Return the sinusoidal embedding (sin, cos) (B, size) of labels (B,), with frequencies from 1 to 1/max_period."""
    half = size // 2
    exponents = torch.arange(half, dtype=torch.float32, device=labels.device) * (-math.log(max_period) / (half - 1))
    angles = labels.to(torch.promote_types(labels.dtype, torch.float32))[:, None] * exponents.exp()[None, :]
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=-1), (0, size % 2))


def geometric_sigmas(sigma_min: float, sigma_max: float, count: int) -> Tensor:
    """Return ``count`` float32 noise levels in geometric sequence, largest first."""
    log_sigmas = torch.linspace(math.log(sigma_max), math.log(sigma_min), count, dtype=torch.float64, device="cpu")
    return log_sigmas.exp().float()
