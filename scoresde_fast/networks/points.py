# SPDX-License-Identifier: Apache-2.0
"""Networks for points, which are images of one pixel: a multilayer perceptron and a residual network."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from scoresde_fast.networks.base import positional_embedding
from scoresde_fast.networks.blocks import ACTIVATIONS

EMBEDDING = 32
"""Number of features of the time embedding."""
TIME_SCALE = 100.0
"""Factor of time before its embedding; the periods then match the times over which the score changes."""
FREQUENCIES = (2.0, 4.0, 8.0, 16.0)
"""Frequencies of the Fourier features of each coordinate, for fine detail (Tancik et al. 2020)."""


class PointNetwork(nn.Module):
    """Base class: (B, in_channels, 1, 1) and times (B,) -> (B, num_channels, 1, 1).

    First, a matrix that is linear in the time embedding mixes the parts of a state, which on CLD are position and
    velocity.  The estimate of x(0) is such a mixture; hidden layers could only approximate products of state and time.

    Args:
        num_channels: number of coordinates of a point.
        in_channels: number of coordinates of a state, on CLD twice ``num_channels``.
        nf: width of the hidden layers.
        num_res_blocks: number of hidden layers or residual blocks.
        nonlinearity: name of the activation.

    Raises:
        ValueError: ``in_channels`` is not a multiple of ``num_channels``.
    """

    frequencies: Tensor

    def __init__(
        self,
        *,
        num_channels: int = 2,
        in_channels: int = 2,
        nf: int = 128,
        num_res_blocks: int = 3,
        nonlinearity: str = "swish",
    ) -> None:
        super().__init__()
        if in_channels % num_channels:
            raise ValueError(
                f"in_channels is {in_channels}, but must be a multiple of num_channels, {num_channels}; "
                f"for CLD it is {2 * num_channels}"
            )
        self.num_channels = num_channels
        self.parts = in_channels // num_channels
        self.act = ACTIVATIONS[nonlinearity]
        self.register_buffer("frequencies", torch.tensor(FREQUENCIES), persistent=False)
        self.combine = nn.Linear(EMBEDDING, self.parts**2)
        self.enter = nn.Linear(in_channels * (1 + 2 * len(FREQUENCIES)) + EMBEDDING, nf)
        self.leave = nn.Linear(nf, num_channels)
        nn.init.zeros_(self.combine.weight)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        with torch.no_grad():
            self.combine.bias.copy_(torch.eye(self.parts).flatten())
        self.add_hidden(nf, num_res_blocks)

    @abstractmethod
    def add_hidden(self, nf: int, num_res_blocks: int) -> None:
        """Create the hidden layers."""

    @abstractmethod
    def hidden(self, h: Tensor) -> Tensor:
        """Apply the hidden layers, (B, nf) -> (B, nf)."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, in_channels, 1, 1), (B,) -> (B, num_channels, 1, 1)."""
        time = positional_embedding(TIME_SCALE * labels, EMBEDDING).to(x.dtype)
        matrix = self.combine(time).view(len(x), self.parts, self.parts, 1)
        # A sum, because the rounding of a batched matrix product may depend on the batch size.
        x = (matrix * x.view(len(x), 1, self.parts, self.num_channels)).sum(2).flatten(1)
        waves = (x[:, :, None] * self.frequencies).flatten(1)
        h = self.enter(torch.cat([x, waves.sin(), waves.cos(), time], dim=1))
        return self.leave(self.act(self.hidden(h))).view(len(x), self.num_channels, 1, 1)


class MLP(PointNetwork):
    """A multilayer perceptron with ``num_res_blocks`` hidden layers; arguments as in `PointNetwork`."""

    def add_hidden(self, nf: int, num_res_blocks: int) -> None:
        self.layers = nn.ModuleList(nn.Linear(nf, nf) for _ in range(num_res_blocks))

    def hidden(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = layer(self.act(h))
        return h


class ResNet(PointNetwork):
    """A residual network with ``num_res_blocks`` blocks of two layers; arguments as in `PointNetwork`."""

    def add_hidden(self, nf: int, num_res_blocks: int) -> None:
        self.first = nn.ModuleList(nn.Linear(nf, nf) for _ in range(num_res_blocks))
        self.second = nn.ModuleList(nn.Linear(nf, nf) for _ in range(num_res_blocks))

    def hidden(self, h: Tensor) -> Tensor:
        for first, second in zip(self.first, self.second, strict=True):
            h = h + second(self.act(first(self.act(h))))
        return h
