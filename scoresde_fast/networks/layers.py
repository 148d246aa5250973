# SPDX-License-Identifier: Apache-2.0
"""Layers shared by the networks: convolutions, linear maps, norms, activations and time embeddings."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde_fast.networks.base import Activation

ACTIVATIONS: dict[str, Activation] = {
    "swish": F.silu,
    "relu": F.relu,
    "elu": F.elu,
    "lrelu": lambda x: F.leaky_relu(x, negative_slope=0.2),
}


def variance_scaling_(weight: Tensor, scale: float = 1.0, *, fan_in: int, fan_out: int) -> Tensor:
    """Initialise in place, uniformly with variance ``scale`` / mean(fan_in, fan_out); a scale of 0 means 1e-10."""
    bound = math.sqrt(3.0 * (scale or 1e-10) / ((fan_in + fan_out) / 2))
    with torch.no_grad():
        return weight.uniform_(-bound, bound)


def init_conv(conv: nn.Conv2d, scale: float = 1.0) -> nn.Conv2d:
    """Initialise ``conv`` in place with variance-scaled weight and zero bias, and return it."""
    receptive = conv.kernel_size[0] * conv.kernel_size[1]
    variance_scaling_(conv.weight, scale, fan_in=conv.in_channels * receptive, fan_out=conv.out_channels * receptive)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def conv3x3(in_channels: int, out_channels: int, scale: float = 1.0) -> nn.Conv2d:
    """Return a 3x3 convolution that preserves the size."""
    return init_conv(nn.Conv2d(in_channels, out_channels, 3, padding=1), scale)


def conv1x1(in_channels: int, out_channels: int, scale: float = 1.0) -> nn.Conv2d:
    """Return a 1x1 convolution."""
    return init_conv(nn.Conv2d(in_channels, out_channels, 1), scale)


def dense(in_features: int, out_features: int) -> nn.Linear:
    """Return a linear layer with variance-scaled weight and zero bias."""
    layer = nn.Linear(in_features, out_features)
    variance_scaling_(layer.weight, fan_in=in_features, fan_out=out_features)
    nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int, groups: int | None = None) -> nn.GroupNorm:
    """Return a GroupNorm; by default, as in NCSN++, with up to 32 groups of at least four channels."""
    return nn.GroupNorm(groups or min(channels // 4, 32), channels, eps=1e-6)


class NIN(nn.Module):
    """A 1x1 convolution as a linear layer ("network in network"), with ``W`` (in, out) and ``b`` (out)."""

    def __init__(self, in_channels: int, out_channels: int, scale: float = 0.1) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(in_channels, out_channels))
        self.b = nn.Parameter(torch.zeros(out_channels))
        variance_scaling_(self.W, scale, fan_in=in_channels, fan_out=out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        return F.conv2d(x, self.W.t()[:, :, None, None], self.b)


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
    """Return ``count`` noise levels in geometric sequence, largest first, float32."""
    log_sigmas = torch.linspace(math.log(sigma_max), math.log(sigma_min), count, dtype=torch.float64)
    return log_sigmas.exp().float()
