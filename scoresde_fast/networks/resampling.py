# SPDX-License-Identifier: Apache-2.0
"""Up- and downsampling layers by two: plain or FIR-filtered, with or without a 3x3 convolution."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from scoresde_fast.networks.layers import conv3x3, init_conv
from scoresde_fast.networks.operations import Composed, Taps
from scoresde_fast.ops.fir_resample import fir_filter, fir_kernel


class Upsample(Composed):
    """Upsampling followed by a 3x3 convolution (``with_conv``); with FIR the convolution comes before the filter."""

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
            # Zero insertion and convolution in one transposed convolution; it wants the flipped, transposed kernel.
            kernel = self.fir_conv.weight.flip(2, 3).transpose(0, 1)
            y = F.conv_transpose2d(x, kernel, stride=2)
            y = fir_filter(y, self.fir_kernel, pad=len(self.taps) - 2)
            return y if self.fir_conv.bias is None else y + self.fir_conv.bias[:, None, None]
        x = self.operations.upsample(x, self.taps)
        return x if self.conv is None else self.conv(x)


class Downsample(Composed):
    """Downsampling with a strided 3x3 convolution (``with_conv``, after the filter when there is one) or without."""

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
            return self.conv(F.pad(x, (0, 1, 0, 1)))  # TensorFlow's "SAME" padding for stride 2
        return self.operations.downsample(x, self.taps)
