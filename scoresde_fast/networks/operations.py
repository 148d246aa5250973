# SPDX-License-Identifier: Apache-2.0
"""The operations that the networks' modules share, fused; a benchmark gives a network others to compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from scoresde_fast.ops.fir_resample import fir_down, fir_up
from scoresde_fast.ops.group_norm_silu import group_norm_silu

Activation = Callable[[Tensor], Tensor]
Taps = Sequence[float] | None
"""A FIR filter, or None for plain resampling."""


def norm_act(norm: nn.GroupNorm, act: Activation, x: Tensor, shift: Tensor | None = None) -> Tensor:
    """act(norm(x + shift)), ``shift`` (B, C) or (C,) for every pixel: one fused operation where ``act`` is SiLU."""
    fused = act is F.silu
    y = group_norm_silu(x, norm.weight, norm.bias, norm.num_groups, eps=norm.eps, shift=shift, silu=fused)[0]
    return y if fused else act(y)


def upsample(x: Tensor, taps: Taps) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W): FIR, or nearest neighbour without ``taps``."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest") if taps is None else fir_up(x, taps)


def downsample(x: Tensor, taps: Taps) -> Tensor:
    """(B, C, H, W) -> (B, C, H/2, W/2): FIR, or the mean of 2x2 pixels without ``taps``."""
    return F.avg_pool2d(x, 2) if taps is None else fir_down(x, taps)


@dataclass(frozen=True)
class Operations:
    """Functions with the arguments and results of `norm_act`, `upsample` and `downsample`."""

    norm_act: Callable[..., Tensor] = norm_act
    upsample: Callable[[Tensor, Taps], Tensor] = upsample
    downsample: Callable[[Tensor, Taps], Tensor] = downsample


class Composed(nn.Module):
    """A module that is computed by ``operations``."""

    operations = Operations()
