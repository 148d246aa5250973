# SPDX-License-Identifier: Apache-2.0
"""NCSN++ (Song et al. 2021, appendix H); DDPM++ is a configuration of it.

A U-Net of residual blocks with attention at some resolutions and two optional pyramids. The input pyramid feeds the
downsampled input into the descending path; the output pyramid accumulates the output on the ascending path.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from scoresde_fast.networks.base import Features, ScoreNetwork, Section, geometric_sigmas
from scoresde_fast.networks.blocks import (
    ACTIVATIONS,
    Activation,
    AttentionBlock,
    Combine,
    Downsample,
    ResnetBlock,
    Taps,
    Upsample,
    conv3x3,
    group_norm,
    join,
)


class Stage(Section):
    """A residual block, followed by attention if the resolution has attention."""

    def __init__(self, block: ResnetBlock, attention: AttentionBlock | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, h: Tensor, temb: Tensor | None) -> Tensor:
        h = self.block(h, temb)
        return h if self.attention is None else self.attention(h)


class Head(Section):
    """Norm, activation and 3x3 convolution: features -> output channels."""

    def __init__(self, channels: int, out_channels: int, act: Activation, init_scale: float = 1.0) -> None:
        super().__init__()
        self.act = act
        self.norm = group_norm(channels)
        self.conv = conv3x3(channels, out_channels, init_scale)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(self.operations.norm_act(self.norm, self.act, h))


class DownResolution(Section):
    """One resolution of the descending path: stages, downsampling, and joining with the input pyramid."""

    def __init__(
        self, stages: list[Stage], shrink: nn.Module | None, pyramid: nn.Module | None, *, taps: Taps, rescale: bool
    ) -> None:
        super().__init__()
        self.stages, self.shrink, self.pyramid = nn.ModuleList(stages), shrink, pyramid
        self.taps, self.rescale = taps, rescale

    def forward(self, h: Tensor, pyramid: Tensor, temb: Tensor | None, count: int) -> tuple[list[Tensor], Tensor]:
        """Return at most ``count`` skip connections of this resolution, and the input pyramid at the next one."""
        skips: list[Tensor] = []
        for stage in self.stages:
            if len(skips) == count:
                return skips, pyramid
            h = stage(h, temb)
            skips.append(h)
        if self.shrink is not None and len(skips) < count:
            h = self.shrink(h, temb) if isinstance(self.shrink, ResnetBlock) else self.shrink(h)
            if isinstance(self.pyramid, Combine):
                pyramid = self.operations.downsample(pyramid, self.taps)
                h = self.pyramid(pyramid, h)
            elif self.pyramid is not None:
                h = pyramid = join(self.pyramid(pyramid), h, self.rescale)
            skips.append(h)
        return skips, pyramid


class UpResolution(Section):
    """One resolution of the ascending path: blocks with skip connections, its part of the output, and upsampling."""

    def __init__(
        self,
        blocks: list[ResnetBlock],
        attention: AttentionBlock | None,
        pyramid: nn.Module | None,
        grow: nn.Module | None,
        *,
        taps: Taps,
        rescale: bool,
    ) -> None:
        super().__init__()
        self.blocks, self.attention, self.pyramid, self.grow = nn.ModuleList(blocks), attention, pyramid, grow
        self.taps, self.rescale = taps, rescale

    def forward(
        self,
        h: Tensor,
        skips: list[Tensor],
        pyramid: Tensor | None,
        temb: Tensor | None,
        first: int = 0,
        keep: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the features at the next resolution and the output pyramid at this one; pop used ``skips``.

        It begins at the block ``first``, and ends before the block for which ``keep`` skip connections are left.
        """
        for index, block in enumerate(self.blocks):
            if index < first:
                continue
            if len(skips) == keep:
                return h, pyramid
            h = block(torch.cat([h, skips.pop()], dim=1), temb)
        if self.attention is not None:
            h = self.attention(h)
        if isinstance(self.pyramid, Upsample) and pyramid is not None:
            h = pyramid = join(self.pyramid(pyramid), h, self.rescale)
        elif self.pyramid is not None:
            output = self.pyramid(h)
            pyramid = output if pyramid is None else self.operations.upsample(pyramid, self.taps) + output
        if self.grow is not None:
            h = self.grow(h, temb) if isinstance(self.grow, ResnetBlock) else self.grow(h)
        return h, pyramid


class NCSNpp(ScoreNetwork):
    """The NCSN++ score network.

    The arguments are the options of the same name in official configurations.  Labels are sigma(t) for
    ``embedding_type`` "fourier" and time labels for "positional".  With ``scale_by_sigma`` time labels are indices of
    the ``num_scales`` noise levels in the buffer ``sigmas``, largest first.  Inputs are in [-1, 1] if ``centered``,
    otherwise in [0, 1].  ``in_channels`` is by default ``num_channels``; CLD needs twice as many.
    """

    def __init__(
        self,
        *,
        image_size: int,
        num_channels: int = 3,
        in_channels: int | None = None,
        centered: bool = False,
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        resamp_with_conv: bool = True,
        conditional: bool = True,
        fir: bool = True,
        fir_kernel: Sequence[float] = (1, 3, 3, 1),
        skip_rescale: bool = True,
        resblock_type: str = "biggan",
        progressive: str = "none",
        progressive_input: str = "residual",
        progressive_combine: str = "sum",
        embedding_type: str = "fourier",
        fourier_scale: float = 16.0,
        init_scale: float = 0.0,
        nonlinearity: str = "swish",
        scale_by_sigma: bool = True,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        num_scales: int = 1000,
    ) -> None:
        act, taps = ACTIVATIONS[nonlinearity], tuple(fir_kernel) if fir else None
        in_channels = in_channels or num_channels
        super().__init__(
            image_channels=num_channels,
            input_channels=in_channels,
            centered=centered,
            act=act,
            nf=nf,
            conditional=conditional,
            scale_by_sigma=scale_by_sigma,
            sigmas=geometric_sigmas(sigma_min, sigma_max, num_scales) if num_scales else None,
            fourier_scale=fourier_scale if embedding_type == "fourier" else None,
        )
        block = partial(
            ResnetBlock,
            kind=resblock_type,
            act=act,
            time_channels=4 * nf if conditional else None,
            dropout=dropout,
            init_scale=init_scale,
            skip_rescale=skip_rescale,
        )
        resampling_block = partial(block, taps=taps)
        attention = partial(AttentionBlock, init_scale=init_scale, skip_rescale=skip_rescale)
        has_attention = [image_size // 2**i in attn_resolutions for i in range(len(ch_mult))]
        lowest = len(ch_mult) - 1

        self.stem = conv3x3(in_channels, nf)
        channels, pyramid_channels = nf, in_channels
        skips, down = [nf], []
        for i, multiplier in enumerate(ch_mult):
            stages = []
            for _ in range(num_res_blocks):
                residual = block(channels, nf * multiplier)
                channels = nf * multiplier
                stages.append(Stage(residual, attention(channels) if has_attention[i] else None))
                skips.append(channels)
            shrink: nn.Module | None = None
            pyramid: nn.Module | None = None
            if i != lowest:
                if resblock_type == "biggan":
                    shrink = resampling_block(channels, resample="down")
                else:
                    shrink = Downsample(channels, channels, with_conv=resamp_with_conv, taps=taps)
                if progressive_input == "input_skip":
                    pyramid = Combine(pyramid_channels, channels, progressive_combine)
                    channels *= 2 if progressive_combine == "cat" else 1
                elif progressive_input == "residual":
                    pyramid = Downsample(pyramid_channels, channels, with_conv=True, taps=taps)
                    pyramid_channels = channels
                skips.append(channels)
            down.append(DownResolution(stages, shrink, pyramid, taps=taps, rescale=skip_rescale))
        self.down = nn.ModuleList(down)

        self.middle0 = block(channels)
        self.middle_attention = attention(channels)
        self.middle1 = block(channels)

        up = []
        for i, multiplier in reversed(list(enumerate(ch_mult))):
            blocks = []
            for _ in range(num_res_blocks + 1):
                blocks.append(block(channels + skips.pop(), nf * multiplier))
                channels = nf * multiplier
            last_attention = attention(channels) if has_attention[i] else None
            pyramid = None
            if progressive == "output_skip":
                pyramid = Head(channels, num_channels, act, init_scale)
            elif progressive == "residual" and i == lowest:
                pyramid = Head(channels, channels, act)
            elif progressive == "residual":
                pyramid = Upsample(pyramid_channels, channels, with_conv=True, taps=taps)
            pyramid_channels = channels
            grow: nn.Module | None = None
            if i != 0:
                if resblock_type == "biggan":
                    grow = resampling_block(channels, resample="up")
                else:
                    grow = Upsample(channels, channels, with_conv=resamp_with_conv, taps=taps)
            up.append(UpResolution(blocks, last_attention, pyramid, grow, taps=taps, rescale=skip_rescale))
        self.up = nn.ModuleList(up)
        self.branches_of_up = [len(each.blocks) for each in up]
        self.head = None if progressive == "output_skip" else Head(channels, num_channels, act, init_scale)

    @property
    def branches(self) -> int:
        return sum(self.branches_of_up)

    def body(self, x: Tensor, temb: Tensor | None) -> Tensor:
        features, skips = self.deep(x, temb, 0)
        return self.shallow(features, skips, temb)

    def deep(self, x: Tensor, temb: Tensor | None, keep: int) -> tuple[Features, list[Tensor]]:
        skips = self.descend(x, temb, self.branches)
        h = self.middle0(skips[-1], temb)
        h = self.middle1(self.middle_attention(h), temb)
        return self._ascend((h,), skips, temb, keep), skips

    def descend(self, x: Tensor, temb: Tensor | None, count: int) -> list[Tensor]:
        skips, pyramid = [self.stem(x)], x
        for down in self.down:
            if len(skips) == count:
                break
            more, pyramid = down(skips[-1], pyramid, temb, count - len(skips))
            skips += more
        return skips

    def shallow(self, features: Features, skips: list[Tensor], temb: Tensor | None) -> Tensor:
        h, *output = self._ascend(features, skips, temb, 0)
        return output[0] if self.head is None else self.head(h)

    def _ascend(self, features: Features, skips: list[Tensor], temb: Tensor | None, keep: int) -> Features:
        """Return the features (h, and the output pyramid if there is one) where ``keep`` skip connections are left."""
        h, pyramid = features[0], features[1] if len(features) > 1 else None
        left = self.branches
        for up, count in zip(self.up, self.branches_of_up, strict=True):
            first, left = left - len(skips), left - count
            if len(skips) > left:
                h, pyramid = up(h, skips, pyramid, temb, first, keep)
        return (h,) if pyramid is None else (h, pyramid)
