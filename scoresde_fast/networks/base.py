# SPDX-License-Identifier: Apache-2.0
"""Base classes of score networks, and the operations that they share.

To add a network, derive it from `ScoreNetwork` and list it in `scoresde_fast.model.NETWORKS`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from scoresde_fast.ops.fir_resample import fir_down, fir_up
from scoresde_fast.ops.group_norm_silu import group_norm_silu

Activation = Callable[[Tensor], Tensor]
Taps = Sequence[float] | None
"""Taps of a FIR filter, or None for plain resampling."""


def norm_act(norm: nn.GroupNorm, act: Activation, x: Tensor, shift: Tensor | None = None) -> Tensor:
    """Return act(norm(x + shift)) with ``shift`` (B, C) or (C,); one fused operation if ``act`` is SiLU."""
    fused = act is F.silu
    y = group_norm_silu(x, norm.weight, norm.bias, norm.num_groups, eps=norm.eps, shift=shift, silu=fused)[0]
    return y if fused else act(y)


def upsample(x: Tensor, taps: Taps) -> Tensor:
    """Upsample (B, C, H, W) -> (B, C, 2H, 2W) by the FIR filter or, without ``taps``, nearest neighbour."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest") if taps is None else fir_up(x, taps)


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
    """A module that computes with ``operations``; benchmarks replace them to compare implementations."""

    operations = Operations()


class Section(OperationsModule):
    """A group of layers that official checkpoints list one by one, without the group."""


def official_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Yield modules in the order of the official code's ``all_modules`` list: as registered, `Section` flattened."""
    for child in module.children():
        if isinstance(child, Section | nn.ModuleList):
            yield from official_modules(child)
        else:
            yield child


class ScoreNetwork(OperationsModule):
    """Base class of networks of images and time labels: a time embedding, a body, and a division by the noise level.

    Attributes:
        centered: whether inputs are in [-1, 1]; otherwise they are in [0, 1].
        image_channels, input_channels: channels of the output and of the input.
        act: activation.
        scale_by_sigma: whether the output is divided by the noise level.
        sigmas: noise levels, largest first; None for a model without a table of noise levels.
        time0, time1: dense layers of the time embedding; None for an unconditional network.
    """

    centered: bool
    image_channels: int
    input_channels: int
    act: Activation
    scale_by_sigma: bool
    sigmas: Tensor | None
    time0: nn.Module | None
    time1: nn.Module | None

    @abstractmethod
    def body(self, x: Tensor, temb: Tensor | None) -> Tensor:
        """Return the output before the division by the noise level, for inputs (B, C, H, W) in [-1, 1]."""

    @abstractmethod
    def embed(self, labels: Tensor) -> Tensor | None:
        """Return the activated time embedding (B, 4 nf) of labels (B,); None for an unconditional network."""

    def noise_level(self, labels: Tensor) -> Tensor | None:
        """Return the noise levels (B,) that divide the output, or None; labels are indices into ``sigmas``."""
        if not self.scale_by_sigma:
            return None
        assert self.sigmas is not None  # checked by `Config`
        return self.sigmas[labels.long()]

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the output (B, image channels, H, W) for inputs (B, input channels, H, W) and labels (B,)."""
        h = self.body(x if self.centered else 2 * x - 1, self.embed(labels))
        sigma = self.noise_level(labels)
        return h if sigma is None else h / sigma[:, None, None, None]

    def embed_features(self, features: Tensor) -> Tensor | None:
        """Apply the two dense layers of the time embedding to ``features``; None for an unconditional network."""
        if self.time0 is None or self.time1 is None:
            return None
        return self.act(self.time1(self.act(self.time0(features))))
