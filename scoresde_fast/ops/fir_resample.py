# SPDX-License-Identifier: Apache-2.0
"""Resampling by two with a separable FIR filter, the anti-aliased resampling of NCSN++ (Song et al. 2021, appendix H).

``fir_up`` inserts zeros and filters, ``fir_down`` filters and drops; both keep the image centred.  These are the plain
PyTorch definitions; they carry gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def _filter(taps: Sequence[float], gain: float, x: Tensor) -> Tensor:
    """The normalised outer product of ``taps`` with itself, times ``gain``, for each channel of ``x``: (C, 1, K, K)."""
    line = torch.tensor(taps, dtype=torch.float64)
    square = torch.outer(line, line)
    return (gain * square / square.sum()).to(x.device, x.dtype).expand(x.shape[1], 1, -1, -1)


def fir_up(x: Tensor, taps: Sequence[float]) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W) by zero insertion and the filter ``taps`` with gain 4, so that means are kept."""
    lead = len(taps) - 2 - (len(taps) - 1) // 2
    height, width = 2 * x.shape[-2], 2 * x.shape[-1]
    # The full convolution is 2H + K - 2 long; it is cropped in the transposed convolution where that can be even.
    crop = min(lead, len(taps) - 2 - lead)
    y = F.conv_transpose2d(x, _filter(taps, 4.0, x), stride=2, padding=crop, groups=x.shape[1])
    return y[..., lead - crop : lead - crop + height, lead - crop : lead - crop + width]


def fir_down(x: Tensor, taps: Sequence[float]) -> Tensor:
    """(B, C, H, W) -> (B, C, H/2, W/2) by the filter ``taps`` with gain 1 and every second pixel."""
    return fir_filter(x, taps, pad=len(taps) - 2, stride=2)


def fir_filter(x: Tensor, taps: Sequence[float], *, pad: int, gain: float = 1.0, stride: int = 1) -> Tensor:
    """True convolution with the filter ``taps``, ``pad`` zeros added in all along each axis (the odd one in front)."""
    kernel = _filter(taps, gain, x).flip(2, 3)
    if pad % 2:
        x = F.pad(x, (1, 0, 1, 0))
    return F.conv2d(x, kernel, stride=stride, padding=pad // 2, groups=x.shape[1])
