# SPDX-License-Identifier: Apache-2.0
"""The DDPM network (Ho et al. 2020) as in Song et al. 2021: a U-Net with plain resampling and positional embedding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from scoresde_fast.networks.base import ScoreNetwork, Section, geometric_sigmas
from scoresde_fast.networks.blocks import (
    ACTIVATIONS,
    AttentionBlock,
    Downsample,
    ResnetBlock,
    Upsample,
    conv3x3,
    group_norm,
)

GROUPS = 32  # number of groups of each GroupNorm


class DownResolution(Section):
    """One resolution of the descending path: residual blocks, each with optional attention, then downsampling."""

    def __init__(self, modules: list[nn.Module], shrink: nn.Module | None) -> None:
        super().__init__()
        self.steps, self.shrink = nn.ModuleList(modules), shrink

    def forward(self, h: Tensor, temb: Tensor | None) -> list[Tensor]:
        """Return the skip connections of this resolution; the last one is the input of the next."""
        skips: list[Tensor] = []
        for step in self.steps:
            if isinstance(step, ResnetBlock):
                h = step(h, temb)
                skips.append(h)
            else:
                h = skips[-1] = step(h)
        return skips if self.shrink is None else [*skips, self.shrink(h)]


class UpResolution(Section):
    """One resolution of the ascending path: residual blocks with skip connections, optional attention, upsampling."""

    def __init__(self, modules: list[nn.Module], grow: nn.Module | None) -> None:
        super().__init__()
        self.steps, self.grow = nn.ModuleList(modules), grow

    def forward(self, h: Tensor, skips: list[Tensor], temb: Tensor | None) -> Tensor:
        """Return the features at the next resolution; pop the used skip connections from ``skips``."""
        for step in self.steps:
            h = step(torch.cat([h, skips.pop()], dim=1), temb) if isinstance(step, ResnetBlock) else step(h)
        return h if self.grow is None else self.grow(h)


class DDPM(ScoreNetwork):
    """The DDPM score network; the arguments are the options of the same name in official configurations.

    With ``scale_by_sigma``, labels are indices of the ``num_scales`` noise levels, largest first.
    """

    def __init__(
        self,
        *,
        image_size: int,
        num_channels: int = 3,
        centered: bool = True,
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        resamp_with_conv: bool = True,
        conditional: bool = True,
        nonlinearity: str = "swish",
        scale_by_sigma: bool = False,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        num_scales: int = 1000,
    ) -> None:
        super().__init__(
            image_channels=num_channels,
            input_channels=num_channels,
            centered=centered,
            act=ACTIVATIONS[nonlinearity],
            nf=nf,
            conditional=conditional,
            scale_by_sigma=scale_by_sigma,
            sigmas=geometric_sigmas(sigma_min, sigma_max, num_scales),
        )
        block = partial(
            ResnetBlock,
            kind="ddpm",
            act=self.act,
            time_channels=4 * nf if conditional else None,
            dropout=dropout,
            init_scale=0.0,
            skip_rescale=False,
            groups=GROUPS,
        )
        attention = partial(AttentionBlock, init_scale=0.0, skip_rescale=False, groups=GROUPS)
        has_attention = [image_size // 2**i in attn_resolutions for i in range(len(ch_mult))]

        self.stem = conv3x3(num_channels, nf)
        channels, skips, down = nf, [nf], []
        for i, multiplier in enumerate(ch_mult):
            steps: list[nn.Module] = []
            for _ in range(num_res_blocks):
                steps.append(block(channels, nf * multiplier))
                channels = nf * multiplier
                if has_attention[i]:
                    steps.append(attention(channels))
                skips.append(channels)
            shrink = None
            if i < len(ch_mult) - 1:
                shrink = Downsample(channels, channels, with_conv=resamp_with_conv, taps=None)
                skips.append(channels)
            down.append(DownResolution(steps, shrink))
        self.down = nn.ModuleList(down)

        self.middle0 = block(channels)
        self.middle_attention = attention(channels)
        self.middle1 = block(channels)

        up = []
        for i, multiplier in reversed(list(enumerate(ch_mult))):
            steps = []
            for _ in range(num_res_blocks + 1):
                steps.append(block(channels + skips.pop(), nf * multiplier))
                channels = nf * multiplier
            if has_attention[i]:
                steps.append(attention(channels))
            grow = Upsample(channels, channels, with_conv=resamp_with_conv, taps=None) if i else None
            up.append(UpResolution(steps, grow))
        self.up = nn.ModuleList(up)
        self.norm = group_norm(channels, GROUPS)
        self.head = conv3x3(channels, num_channels, 0.0)

    def body(self, x: Tensor, temb: Tensor | None) -> Tensor:
        skips = [self.stem(x)]
        for down in self.down:
            skips += down(skips[-1], temb)
        h = self.middle1(self.middle_attention(self.middle0(skips[-1], temb)), temb)
        for up in self.up:
            h = up(h, skips, temb)
        return self.head(self.operations.norm_act(self.norm, self.act, h))
