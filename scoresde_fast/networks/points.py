# SPDX-License-Identifier: Apache-2.0
"""Networks of points, images of one pixel: a multilayer perceptron and a residual one, for two-dimensional data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scoresde_fast.networks.layers import ACTIVATIONS, positional_embedding

EMBEDDING = 32
"""Features of the time."""
LABELS = 1000.0
"""What the time is multiplied by, so that the embedding's fastest wave tells the smallest times apart."""


class PointNetwork(nn.Module):
    """Common to both: (B, in_channels, 1, 1) and times (B,) -> (B, num_channels, 1, 1).

    Args:
        num_channels: coordinates of a point.
        in_channels: numbers that the network sees: twice as many on CLD, the velocity with the position.
        nf: width of the hidden layers.
        nonlinearity: their activation.
    """

    def __init__(self, num_channels: int, in_channels: int, nf: int, nonlinearity: str) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.act = ACTIVATIONS[nonlinearity]
        self.enter = nn.Linear(in_channels + EMBEDDING, nf)
        self.leave = nn.Linear(nf, num_channels)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def hidden(self, h: Tensor) -> Tensor:
        """(B, nf) -> (B, nf)."""
        raise NotImplementedError

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, in_channels, 1, 1), (B,) -> (B, num_channels, 1, 1)."""
        time = positional_embedding(LABELS * labels, EMBEDDING).to(x.dtype)
        h = self.enter(torch.cat([x.flatten(1), time], dim=1))
        return self.leave(self.act(self.hidden(h))).view(len(x), self.num_channels, 1, 1)


class MLP(PointNetwork):
    """A multilayer perceptron of ``num_res_blocks`` hidden layers; the other arguments are `PointNetwork`'s."""

    def __init__(
        self,
        *,
        num_channels: int = 2,
        in_channels: int = 2,
        nf: int = 128,
        num_res_blocks: int = 3,
        nonlinearity: str = "swish",
    ) -> None:
        super().__init__(num_channels, in_channels, nf, nonlinearity)
        self.layers = nn.ModuleList(nn.Linear(nf, nf) for _ in range(num_res_blocks))

    def hidden(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = layer(self.act(h))
        return h


class ResNet(PointNetwork):
    """``num_res_blocks`` residual blocks of two layers each; the other arguments are `PointNetwork`'s."""

    def __init__(
        self,
        *,
        num_channels: int = 2,
        in_channels: int = 2,
        nf: int = 128,
        num_res_blocks: int = 3,
        nonlinearity: str = "swish",
    ) -> None:
        super().__init__(num_channels, in_channels, nf, nonlinearity)
        self.first = nn.ModuleList(nn.Linear(nf, nf) for _ in range(num_res_blocks))
        self.second = nn.ModuleList(nn.Linear(nf, nf) for _ in range(num_res_blocks))

    def hidden(self, h: Tensor) -> Tensor:
        for first, second in zip(self.first, self.second, strict=True):
            h = h + second(self.act(first(self.act(h))))
        return h
