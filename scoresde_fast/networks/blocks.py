# SPDX-License-Identifier: Apache-2.0
"""Building blocks of NCSN++ and DDPM: residual blocks, self-attention, resampling, and pyramid inputs."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde_fast.networks.base import Activation, OperationsModule, Taps
from scoresde_fast.networks.folded_convolution import FoldedConvolution
from scoresde_fast.networks.layers import NIN, conv1x1, conv3x3, dense, group_norm, init_conv
from scoresde_fast.ops.fir_resample import fir_filter, fir_kernel


def join(x: Tensor, h: Tensor, rescale: bool) -> Tensor:
    """Return x + h, with ``rescale`` divided by sqrt(2), which preserves the variance."""
    return (x + h).mul_(1 / math.sqrt(2.0)) if rescale else x + h


def convolve_and_join(conv: nn.Module, h: Tensor, x: Tensor, rescale: bool) -> Tensor:
    """Return ``join`` of x and conv(h); a folded convolution includes the factor in its weights and adds x itself."""
    return conv(h, residual=x) if isinstance(conv, FoldedConvolution) else join(x, conv(h), rescale)


def convolve_both_and_join(conv: nn.Module, h: Tensor, shortcut: nn.Module, x: Tensor, rescale: bool) -> Tensor:
    """Return ``join`` of shortcut(x) and conv(h); of folded convolutions one adds the other's result in its kernel.

    The 3x3 convolution adds if Winograd's kernel computes it.  Otherwise the 1x1 shortcut adds, because only its fused
    kernel is as fast as cuDNN.
    """
    if isinstance(shortcut, FoldedConvolution) and isinstance(conv, FoldedConvolution) and not conv.uses_winograd:
        return shortcut(x, residual=conv(h))
    return convolve_and_join(conv, h, shortcut(x), rescale)


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
        self.shortcut_conv = conv1x1(in_channels, out_channels) if changes and kind == "biggan" else None
        self.shortcut_nin = NIN(in_channels, out_channels) if changes and kind == "ddpm" else None

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        """(B, in, H, W), activated time embedding (B, time_channels) or None -> (B, out, H', W'), resampled."""
        h = self.operations.norm_act(self.norm0, self.act, x)
        if self.resample is not None:
            change_size = self.operations.upsample if self.resample == "up" else self.operations.downsample
            h, x = change_size(h, self.taps), change_size(x, self.taps)
        shift = self.time(temb) if self.time is not None and temb is not None else None
        h = self.operations.norm_act(self.norm1, self.act, self.conv0(h), shift)
        h = self.dropout(h)
        shortcut = self.shortcut_nin if self.shortcut_conv is None else self.shortcut_conv
        if shortcut is None:
            return convolve_and_join(self.conv1, h, x, self.skip_rescale)
        return convolve_both_and_join(self.conv1, h, shortcut, x, self.skip_rescale)


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
        self.conv = conv1x1(pyramid_channels, channels)

    def forward(self, pyramid: Tensor, h: Tensor) -> Tensor:
        """(B, P, H, W), (B, C, H, W) -> (B, C, H, W), or (B, 2C, H, W) for ``cat``."""
        projected = self.conv(pyramid)
        return projected + h if self.method == "sum" else torch.cat([projected, h], dim=1)


class Upsample(OperationsModule):
    """Upsampling by two, ``with_conv`` with a 3x3 convolution after plain upsampling or before a FIR filter."""

    OFFICIAL_NAMES: ClassVar = {"conv": "Conv_0", "fir_conv": "Conv2d_0"}
    fir_kernel: Tensor

    def __init__(self, in_channels: int, out_channels: int, *, with_conv: bool, taps: Taps) -> None:
        super().__init__()
        self.taps = taps
        self.conv = conv3x3(in_channels, out_channels) if with_conv and taps is None else None
        self.fir_conv = init_conv(nn.Conv2d(in_channels, out_channels, 3)) if with_conv and taps is not None else None
        kernel = None if taps is None else fir_kernel(taps, gain=4.0).float()
        self.register_buffer("fir_kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, 2H, 2W)."""
        if self.fir_conv is not None and self.taps is not None:
            # Insert zeros and convolve in one transposed convolution, which needs the flipped and transposed kernel.
            kernel = self.fir_conv.weight.flip(2, 3).transpose(0, 1)
            y = F.conv_transpose2d(x, kernel, stride=2)
            y = fir_filter(y, self.fir_kernel, pad=len(self.taps) - 2)
            return y if self.fir_conv.bias is None else y + self.fir_conv.bias[:, None, None]
        x = self.operations.upsample(x, self.taps)
        return x if self.conv is None else self.conv(x)


class Downsample(OperationsModule):
    """Downsampling by two, ``with_conv`` by a strided 3x3 convolution, after the FIR filter if there are ``taps``."""

    OFFICIAL_NAMES: ClassVar = {"conv": "Conv_0", "fir_conv": "Conv2d_0"}
    fir_kernel: Tensor

    def __init__(self, in_channels: int, out_channels: int, *, with_conv: bool, taps: Taps) -> None:
        super().__init__()
        self.taps = taps
        conv = init_conv(nn.Conv2d(in_channels, out_channels, 3, stride=2)) if with_conv else None
        self.conv = conv if taps is None else None
        self.fir_conv = None if taps is None else conv
        kernel = None if taps is None else fir_kernel(taps).float()
        self.register_buffer("fir_kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/2, W/2)."""
        if self.fir_conv is not None and self.taps is not None:
            return self.fir_conv(fir_filter(x, self.fir_kernel, pad=len(self.taps)))
        if self.conv is not None:
            return self.conv(F.pad(x, (0, 1, 0, 1)))  # "SAME" padding of TensorFlow for stride 2
        return self.operations.downsample(x, self.taps)
