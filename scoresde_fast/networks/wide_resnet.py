# SPDX-License-Identifier: Apache-2.0
"""A noise-conditional wide residual network: images with noise, and how much of it, to the logits of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from scoresde_fast.networks.blocks import ResnetBlock
from scoresde_fast.networks.layers import conv3x3, dense, group_norm, positional_embedding
from scoresde_fast.networks.operations import norm_act

WAVES = 4.0
"""What log(noise) is multiplied by: the shortest wave of its embedding is then 2 pi / 4 long."""
MAX_PERIOD = 100.0
"""The longest wave of the embedding over the shortest: it is longer than all of a diffusion's log(noise)."""


class WideResNet(nn.Module):
    """Pre-activated residual blocks of a few, wide levels (Zagoruyko and Komodakis 2016), told the noise level.

    Its norms are GroupNorm, its activations SiLU, each block adds a projection of the embedded noise level, as Song et
    al. 2021 (appendix I.1) have it, and images are halved by averaging.  Its last layer sees the smallest level whole
    and not its mean: in much noise it is by the place of its pixels that an image tells its class.

    Args:
        image_size: (H, W) of the images.
        in_channels: of the images.
        classes: how many logits there are.
        widths: channels of each level; the image is halved from one to the next.
        num_res_blocks: residual blocks a level.
        data_std: deviation of an image's numbers without noise, by which the input gets a variance near 1.
        dropout: in each block, while training.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        in_channels: int = 3,
        classes: int = 10,
        widths: Sequence[int] = (32, 64, 128),
        num_res_blocks: int = 1,
        data_std: float = 0.5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.data_std = data_std
        self.embedding = 2 * widths[0]
        self.time0 = dense(self.embedding, self.embedding)
        self.time1 = dense(self.embedding, self.embedding)
        self.stem = conv3x3(in_channels, widths[0])
        sizes = [(widths[0], widths[0]), *pairwise(widths)]
        self.blocks = nn.ModuleList(
            ResnetBlock(
                before if first else width,
                width,
                kind="biggan",
                act=F.silu,
                time_channels=self.embedding,
                dropout=dropout,
                init_scale=0.0,
                skip_rescale=True,
                resample="down" if first and level else None,
            )
            for level, (before, width) in enumerate(sizes)
            for first in (True, *[False] * (num_res_blocks - 1))
        )
        self.norm = group_norm(widths[-1])
        height, width = (size >> (len(widths) - 1) for size in image_size)
        self.head = dense(widths[-1] * height * width, classes)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """(B, C, H, W) images with noise of the deviation (B,) -> (B, classes) logits."""
        h = self.stem(x / (noise**2 + self.data_std**2).sqrt()[:, None, None, None])
        waves = positional_embedding(WAVES * noise.log(), self.embedding, MAX_PERIOD).to(x.dtype)
        temb = F.silu(self.time1(F.silu(self.time0(waves))))
        for block in self.blocks:
            h = block(h, temb)
        return self.head(norm_act(self.norm, F.silu, h).flatten(1))
