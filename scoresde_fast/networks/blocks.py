# SPDX-License-Identifier: Apache-2.0
"""Layers and blocks of the networks: operations, convolutions, residual blocks, self-attention, resampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde_fast.ops.fir_resample import fir_down, fir_filter, fir_kernel, fir_up
from scoresde_fast.ops.group_norm_silu import group_norm_silu

Activation = Callable[[Tensor], Tensor]
Taps = Sequence[float] | None
"""Taps of a FIR filter, or None for plain resampling."""

ACTIVATIONS: dict[str, Activation] = {
    "swish": F.silu,
    "relu": F.relu,
    "elu": F.elu,
    "lrelu": lambda x: F.leaky_relu(x, negative_slope=0.2),
}


def norm_act(norm: nn.GroupNorm, act: Activation, x: Tensor, shift: Tensor | None = None) -> Tensor:
    """Return act(norm(x + shift)) with ``shift`` (B, C) or (C,); one fused operation if ``act`` is SiLU."""
    fused = act is F.silu
    y = group_norm_silu(x, norm.weight, norm.bias, norm.num_groups, eps=norm.eps, shift=shift, silu=fused)[0]
    return y if fused else act(y)


def upsample(x: Tensor, taps: Taps) -> Tensor:
    """Upsample (B, C, H, W) -> (B, C, 2H, 2W) by the FIR filter or, without ``taps``, nearest neighbour."""
    y = F.interpolate(x, scale_factor=2.0, mode="nearest") if taps is None else fir_up(x, taps)
    return known_format(y, x)


def known_format(y: Tensor, x: Tensor) -> Tensor:
    """Return ``y``, upsampled from ``x``; in channels_last if ``x`` is one pixel, whose memory format is unknown.

    Folded convolutions need channels_last images.
    """
    return y.contiguous(memory_format=torch.channels_last) if x.shape[2:] == (1, 1) else y


def downsample(x: Tensor, taps: Taps) -> Tensor:
    """Downsample (B, C, H, W) -> (B, C, H/2, W/2) by the FIR filter or, without ``taps``, the mean of 2x2 pixels."""
    return F.avg_pool2d(x, 2) if taps is None else fir_down(x, taps)


@dataclass(frozen=True)
class Operations:
    """Implementations of `norm_act`, `upsample` and `downsample`."""

    norm_act: Callable[..., Tensor] = norm_act
    upsample: Callable[[Tensor, Taps], Tensor] = upsample
    downsample: Callable[[Tensor, Taps], Tensor] = downsample


class OperationsModule(nn.Module):
    """A module that calls ``operations``, which benchmarks replace to compare implementations."""

    operations = Operations()


def variance_scaling_(weight: Tensor, scale: float = 1.0, *, fan_in: int, fan_out: int) -> Tensor:
    """Initialise in place, uniformly with variance ``scale`` / mean(fan_in, fan_out); a scale of 0 means 1e-10."""
    bound = math.sqrt(3.0 * (scale or 1e-10) / ((fan_in + fan_out) / 2))
    return nn.init.uniform_(weight, -bound, bound)


def conv(in_channels: int, out_channels: int, size: int, scale: float = 1.0, **options: Any) -> nn.Conv2d:
    """Return a ``size`` x ``size`` convolution with variance-scaled weight and zero bias."""
    layer = nn.Conv2d(in_channels, out_channels, size, **options)
    variance_scaling_(layer.weight, scale, fan_in=in_channels * size**2, fan_out=out_channels * size**2)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def conv3x3(in_channels: int, out_channels: int, scale: float = 1.0) -> nn.Conv2d:
    """Return a 3x3 convolution that preserves the size."""
    return conv(in_channels, out_channels, 3, scale, padding=1)


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


def join(x: Tensor, h: Tensor, rescale: bool) -> Tensor:
    """Return x + h; ``rescale`` divides the sum by sqrt(2), which preserves the variance."""
    return (x + h).mul_(1 / math.sqrt(2.0)) if rescale else x + h


class ResnetBlock(OperationsModule):
    """Residual block: norm, activation, [resampling,] convolution, time shift, norm, activation, dropout, convolution.

    If the shape changes, the shortcut is a 1x1 convolution for ``kind="biggan"`` and a `NIN` for ``kind="ddpm"``.
    "biggan" blocks can resample: ``resample="up" | "down"``, filtered by ``taps``.
    """

    OFFICIAL_NAMES: ClassVar = {
        "norm0": "GroupNorm_0",
        "conv0": "Conv_0",
        "time": "Dense_0",
        "norm1": "GroupNorm_1",
        "conv1": "Conv_1",
        "shortcut_conv": "Conv_2",
        "shortcut_nin": "NIN_0",
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        kind: str,
        act: Activation,
        time_channels: int | None,
        dropout: float,
        init_scale: float,
        skip_rescale: bool,
        resample: str | None = None,
        taps: Taps = None,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        out_channels = out_channels or in_channels
        self.act, self.skip_rescale, self.resample, self.taps = act, skip_rescale, resample, taps
        self.norm0 = group_norm(in_channels, groups)
        self.conv0 = conv3x3(in_channels, out_channels)
        self.time = None if time_channels is None else dense(time_channels, out_channels)
        self.norm1 = group_norm(out_channels, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = conv3x3(out_channels, out_channels, init_scale)
        changes = in_channels != out_channels or resample is not None
        self.shortcut_conv = conv(in_channels, out_channels, 1) if changes and kind == "biggan" else None
        self.shortcut_nin = NIN(in_channels, out_channels) if changes and kind == "ddpm" else None

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        """(B, in, H, W), activated time embedding (B, time_channels) or None -> (B, out, H', W')."""
        h = self.operations.norm_act(self.norm0, self.act, x)
        if self.resample is not None:
            change_size = self.operations.upsample if self.resample == "up" else self.operations.downsample
            h, x = change_size(h, self.taps), change_size(x, self.taps)
        shift = self.time(temb) if self.time is not None and temb is not None else None
        h = self.operations.norm_act(self.norm1, self.act, self.conv0(h), shift)
        return self.convolve_and_join(self.dropout(h), x)

    @property
    def shortcut(self) -> nn.Conv2d | NIN | None:
        """Layer that gives the input the shape of the output; None if the shapes are equal."""
        return self.shortcut_nin if self.shortcut_conv is None else self.shortcut_conv

    def convolve_and_join(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the `join` of the shortcut of ``x`` and the last convolution of ``h``."""
        shortcut = self.shortcut
        return join(x if shortcut is None else shortcut(x), self.conv1(h), self.skip_rescale)


class AttentionBlock(nn.Module):
    """Single-head self-attention over pixels with a residual connection."""

    OFFICIAL_NAMES: ClassVar = {
        "norm": "GroupNorm_0",
        "query": "NIN_0",
        "key": "NIN_1",
        "value": "NIN_2",
        "out": "NIN_3",
    }

    def __init__(self, channels: int, *, init_scale: float, skip_rescale: bool, groups: int | None = None) -> None:
        super().__init__()
        self.skip_rescale = skip_rescale
        self.norm = group_norm(channels, groups)
        self.query, self.key, self.value = NIN(channels, channels), NIN(channels, channels), NIN(channels, channels)
        self.out = NIN(channels, channels, init_scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).mT[:, None] for layer in (self.query, self.key, self.value))
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].mT.reshape(x.shape)
        return join(x, self.out(h), self.skip_rescale)


class Combine(nn.Module):
    """A 1x1 convolution of the input pyramid, added to the features (``sum``) or concatenated with them (``cat``)."""

    OFFICIAL_NAMES: ClassVar = {"conv": "Conv_0"}

    def __init__(self, pyramid_channels: int, channels: int, method: str) -> None:
        super().__init__()
        self.method = method
        self.conv = conv(pyramid_channels, channels, 1)

    def forward(self, pyramid: Tensor, h: Tensor) -> Tensor:
        """(B, P, H, W), (B, C, H, W) -> (B, C, H, W), or (B, 2C, H, W) for ``cat``."""
        projected = self.conv(pyramid)
        return projected + h if self.method == "sum" else torch.cat([projected, h], dim=1)


class Resampling(OperationsModule):
    """Base class of `Upsample` and `Downsample`: ``layer`` is a 3x3 convolution or None."""

    OFFICIAL_NAMES: ClassVar = {"conv": "Conv_0", "fir_conv": "Conv2d_0"}
    fir_kernel: Tensor

    def __init__(self, layer: nn.Conv2d | None, taps: Taps, gain: float = 1.0) -> None:
        super().__init__()
        self.taps = taps
        self.conv = layer if taps is None else None
        self.fir_conv = None if taps is None else layer
        kernel = None if taps is None else fir_kernel(taps, gain).float()
        self.register_buffer("fir_kernel", kernel, persistent=False)


class Upsample(Resampling):
    """Upsampling by two; ``with_conv`` adds a 3x3 convolution, after plain upsampling or before a FIR filter."""

    def __init__(self, in_channels: int, out_channels: int, *, with_conv: bool, taps: Taps) -> None:
        layer = conv(in_channels, out_channels, 3, padding=int(taps is None)) if with_conv else None
        super().__init__(layer, taps, gain=4.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, 2H, 2W)."""
        if self.fir_conv is not None and self.taps is not None:
            # Insert zeros and convolve in one transposed convolution, which needs the flipped and transposed kernel.
            kernel = self.fir_conv.weight.flip(2, 3).transpose(0, 1)
            y = F.conv_transpose2d(x, kernel, stride=2)
            y = known_format(fir_filter(y, self.fir_kernel, pad=len(self.taps) - 2), x)
            return y if self.fir_conv.bias is None else y + self.fir_conv.bias[:, None, None]
        x = self.operations.upsample(x, self.taps)
        return x if self.conv is None else self.conv(x)


class Downsample(Resampling):
    """Downsampling by two; ``with_conv`` uses a strided 3x3 convolution, after the FIR filter if there are ``taps``."""

    def __init__(self, in_channels: int, out_channels: int, *, with_conv: bool, taps: Taps) -> None:
        super().__init__(conv(in_channels, out_channels, 3, stride=2) if with_conv else None, taps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/2, W/2)."""
        if self.fir_conv is not None and self.taps is not None:
            return self.fir_conv(fir_filter(x, self.fir_kernel, pad=len(self.taps)))
        if self.conv is not None:
            return self.conv(F.pad(x, (0, 1, 0, 1)))  # "SAME" padding of TensorFlow for stride 2
        return self.operations.downsample(x, self.taps)
