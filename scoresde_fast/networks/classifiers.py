# SPDX-License-Identifier: Apache-2.0
"""Image classifiers: a noise-conditional wide residual network, and a small network for features of digits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from scoresde_fast.networks.base import positional_embedding
from scoresde_fast.networks.blocks import ResnetBlock, conv3x3, dense, group_norm, norm_act

WAVES = 4.0
"""Factor of log(noise) in the sinusoidal embedding; the shortest period is 2 pi / `WAVES`."""
MAX_PERIOD = 100.0
"""Ratio of the longest period to the shortest; the longest exceeds the range of log(noise) in a diffusion."""


class WideResNet(nn.Module):
    """A wide residual network (Zagoruyko and Komodakis 2016) of pre-activation blocks, conditional on the noise level.

    It has GroupNorm and SiLU, and downsamples by averaging.  Each block adds a projection of the embedded noise level
    (Song et al. 2021, appendix I.1).  The last layer reads all pixels of the lowest resolution, not their mean, because
    in strong noise the class depends on where pixels are bright.

    Args:
        image_size: (H, W) of the images.
        in_channels: channels of the images.
        classes: number of classes.
        widths: channels at each resolution; each resolution is half the previous one.
        num_res_blocks: residual blocks per resolution.
        data_std: standard deviation of pixels without noise; scales the input to a variance near 1.
        dropout: dropout rate in each block.
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
                previous if block == 0 else width,
                width,
                kind="biggan",
                act=F.silu,
                time_channels=self.embedding,
                dropout=dropout,
                init_scale=0.0,
                skip_rescale=True,
                resample="down" if block == 0 and level > 0 else None,
            )
            for level, (previous, width) in enumerate(sizes)
            for block in range(num_res_blocks)
        )
        self.norm = group_norm(widths[-1])
        height, width = (size >> (len(widths) - 1) for size in image_size)
        self.head = dense(widths[-1] * height * width, classes)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return logits (B, classes) for noisy images (B, C, H, W) and the standard deviation (B,) of their noise."""
        h = self.stem(x / (noise**2 + self.data_std**2).sqrt()[:, None, None, None])
        waves = positional_embedding(WAVES * noise.log(), self.embedding, MAX_PERIOD).to(x.dtype)
        temb = F.silu(self.time1(F.silu(self.time0(waves))))
        for block in self.blocks:
            h = block(h, temb)
        return self.head(norm_act(self.norm, F.silu, h).flatten(1))


FEATURES = 64
"""Number of features of `FeatureNet`."""


class FeatureNet(nn.Module):
    """A small classifier of digits; its 64 features replace those of Inception where Inception is not installed."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.GroupNorm(8, 64),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.GroupNorm(8, 64),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * 16, FEATURES),
            nn.SiLU(),
        )
        self.classifier = nn.Linear(FEATURES, classes)

    def features(self, images: Tensor) -> Tensor:
        """Return the features (B, 64) of images (B, 3, 16, 16) in [0, 1]."""
        return self.body(2 * images - 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) for images (B, 3, 16, 16) in [0, 1]."""
        return self.classifier(self.features(images))
