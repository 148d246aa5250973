# SPDX-License-Identifier: Apache-2.0
"""The base classes of score networks, and the operations that compute them.

To add a network, derive it from `ScoreNetwork` and name it in `scoresde_fast.model.NETWORKS`.
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
"""A FIR filter, or None for plain resampling."""


def norm_act(norm: nn.GroupNorm, act: Activation, x: Tensor, shift: Tensor | None = None) -> Tensor:
    """act(norm(x + shift)), ``shift`` (B, C) or (C,) for every pixel: one fused operation where ``act`` is SiLU."""
    fused = act is F.silu
    y = group_norm_silu(x, norm.weight, norm.bias, norm.num_groups, eps=norm.eps, shift=shift, silu=fused)[0]
    return y if fused else act(y)


def upsample(x: Tensor, taps: Taps) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W), by the FIR filter or, without ``taps``, nearest neighbour."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest") if taps is None else fir_up(x, taps)


def downsample(x: Tensor, taps: Taps) -> Tensor:
    """(B, C, H, W) -> (B, C, H/2, W/2), by the FIR filter or, without ``taps``, the mean of 2x2 pixels."""
    return F.avg_pool2d(x, 2) if taps is None else fir_down(x, taps)


@dataclass(frozen=True)
class Operations:
    """Functions with the arguments and results of `norm_act`, `upsample` and `downsample`."""

    norm_act: Callable[..., Tensor] = norm_act
    upsample: Callable[[Tensor, Taps], Tensor] = upsample
    downsample: Callable[[Tensor, Taps], Tensor] = downsample


class OperationsModule(nn.Module):
    """A module that computes with ``operations``, which a benchmark replaces to compare with other implementations."""

    operations = Operations()


class Section(OperationsModule):
    """A group of layers without a counterpart in the flat module list of official checkpoints."""


def official_modules(module: nn.Module) -> Iterator[nn.Module]:
    """The modules in the order of the original's ``all_modules`` list: in order of registration, sections opened."""
    for child in module.children():
        if isinstance(child, Section | nn.ModuleList):
            yield from official_modules(child)
        else:
            yield child


class ScoreNetwork(OperationsModule):
    """A network of images and time labels: a time embedding, a body, and a division by the noise level.

    Attributes:
        centered: whether inputs are in [-1, 1] already, and not in [0, 1].
        image_channels, input_channels: channels of the output and of the input.
        act: the activation.
        scale_by_sigma: whether the output is divided by the noise level.
        sigmas: noise levels, the largest first; None for a model without a table of noise levels.
        time0, time1: the layers of the time embedding; None for an unconditional network.
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
        """Input in [-1, 1] (B, C, H, W), activated time embedding -> output before the division by the noise level."""

    @abstractmethod
    def embed(self, labels: Tensor) -> Tensor | None:
        """The time embedding (B, 4 nf) of labels (B,), activated, as each block projects it."""

    def noise_level(self, labels: Tensor) -> Tensor | None:
        """(B,) the noise level that divides the output, or None; labels are indices into ``sigmas``."""
        if not self.scale_by_sigma:
            return None
        assert self.sigmas is not None  # a configuration that scales by sigma has noise levels
        return self.sigmas[labels.long()]

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, input channels, H, W), (B,) -> (B, image channels, H, W)."""
        h = self.body(x if self.centered else 2 * x - 1, self.embed(labels))
        sigma = self.noise_level(labels)
        return h if sigma is None else h / sigma[:, None, None, None]

    def embed_features(self, features: Tensor) -> Tensor | None:
        """The two dense layers of the time embedding, activated; None for an unconditional network."""
        if self.time0 is None or self.time1 is None:
            return None
        return self.act(self.time1(self.act(self.time0(features))))
