# SPDX-License-Identifier: Apache-2.0
"""A small U-Net in plain PyTorch: it stands for a network of your own, and knows nothing of scoresde_fast."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EMBEDDING = 128
GROUPS = 8


def zero_convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution whose weights are zero, so that training begins without its output."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.zeros_(convolution.weight)
    return convolution


class Block(nn.Module):
    """A residual block; the embedding of the time is added between its convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(GROUPS, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.shift = nn.Linear(EMBEDDING, outputs)
        self.second = nn.Sequential(nn.GroupNorm(GROUPS, outputs), nn.SiLU(), zero_convolution(outputs, outputs))
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.skip(x) + self.second(self.first(x) + self.shift(embedding)[:, :, None, None])


class UNet(nn.Module):
    """A U-Net for images whose height and width are multiples of 4.

    Args:
        time_scale: the factor that brings the times to a range of about 1000, as the embedding expects.
        classes: number of classes; None for a network without labels.
        width: channels at the highest resolution, a multiple of 8.
    """

    def __init__(self, time_scale: float = 1.0, classes: int | None = None, width: int = 32) -> None:
        super().__init__()
        self.time_scale = time_scale
        self.embed_time = nn.Sequential(nn.Linear(64, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING))
        self.embed_class = None if classes is None else nn.Embedding(classes, EMBEDDING)
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.down1, self.down2 = Block(width, width), Block(width, 2 * width)
        self.middle1, self.middle2 = Block(2 * width, 2 * width), Block(2 * width, 2 * width)
        self.attention = nn.MultiheadAttention(2 * width, num_heads=1, batch_first=True)
        self.up2, self.up1 = Block(4 * width, width), Block(2 * width, width)
        self.leave = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), zero_convolution(width, 3))
        self.gain = nn.Linear(EMBEDDING, 3)
        self.shrink, self.grow = nn.AvgPool2d(2), nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the output (B, 3, H, W) for states (B, 3, H, W), times (B,) and labels (B,) int64 or None."""
        frequencies = 10_000 ** -torch.linspace(0, 1, 32, device=x.device)
        angles = self.time_scale * t[:, None].float() * frequencies
        embedding = self.embed_time(torch.cat([angles.sin(), angles.cos()], dim=1))
        if self.embed_class is not None and y is not None:
            embedding = embedding + self.embed_class(y)
        embedding = nn.functional.silu(embedding)
        high = self.down1(self.enter(x), embedding)
        low = self.down2(self.shrink(high), embedding)
        h = self.middle1(self.shrink(low), embedding)
        pixels = h.flatten(2).transpose(1, 2)
        h = h + self.attention(pixels, pixels, pixels, need_weights=False)[0].transpose(1, 2).view_as(h)
        h = self.middle2(h, embedding)
        h = self.up2(torch.cat([self.grow(h), low], dim=1), embedding)
        h = self.up1(torch.cat([self.grow(h), high], dim=1), embedding)
        return self.leave(h) + self.gain(embedding)[:, :, None, None] * x  # a multiple of x is a good first guess
