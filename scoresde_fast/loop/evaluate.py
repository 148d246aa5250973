# SPDX-License-Identifier: Apache-2.0
"""What the loop evaluates: a network with its time table, folded where it can be, plain where it cannot."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from scoresde_fast.networks import ScoreNetwork
from scoresde_fast.networks.folding import FoldedNetwork, TimedFoldedNetwork
from scoresde_fast.precision import Precision


class Evaluator(Protocol):
    """A network whose time labels are rows of a table on the device."""

    def __call__(self, x: Tensor, row: Tensor) -> Tensor:
        """(B, C, H, W) float32 contiguous, (1,) int64 -> (B, C, H, W) float32 contiguous."""

    def stale(self) -> bool:
        """Whether the network has changed in a way that this evaluator does not follow."""


class PlainNetwork(nn.Module):
    """Any network as it is.

    Args:
        network: ``network(x, labels)``, (B, ...), (B,) -> (B, ...).
        labels: (rows,) float32, the label of each row of the program.
    """

    labels: Tensor

    def __init__(self, network: nn.Module, labels: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("labels", labels, persistent=False)
        self._addresses = _addresses(network)

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        """(B, ...), (1,) int64 -> (B, ...), contiguous."""
        output: Tensor = self.network(x, self.labels.index_select(0, row).expand(len(x)))
        return output.contiguous()

    def stale(self) -> bool:
        """Whether a weight lies elsewhere than before: values that change in place are followed, even by a graph."""
        return self._addresses != _addresses(self.network)


def _addresses(network: nn.Module) -> list[int]:
    return [tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())]


def evaluator(network: nn.Module, labels: Tensor, precision: Precision) -> Evaluator:
    """The fastest evaluator of a network on its device: the one place that knows which networks can be folded.

    Args:
        network: ``network(x, labels)``.
        labels: (rows,) float32 on the network's device.
        precision: what the network computes in.
    """
    if isinstance(network, ScoreNetwork):
        return FoldedNetwork(network, labels, precision)
    return PlainNetwork(network, labels)


class TimedEvaluator(Protocol):
    """A network of samples that each have a time of their own."""

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, ...), (B,) in the dtype of the network -> (B, ...)."""

    def stale(self) -> bool:
        """As `Evaluator.stale`."""


class PlainTimedNetwork(nn.Module):
    """Any network as it is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._addresses = _addresses(network)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, ...), (B,) -> (B, ...)."""
        output: Tensor = self.network(x, labels)
        return output

    def stale(self) -> bool:
        """As `PlainNetwork.stale`."""
        return self._addresses != _addresses(self.network)


def timed_evaluator(network: nn.Module, precision: Precision) -> TimedEvaluator:
    """As `evaluator`, for samples that each have a time of their own; tangents go through it, in forward mode."""
    if isinstance(network, ScoreNetwork):
        return TimedFoldedNetwork(network, precision)
    return PlainTimedNetwork(network)
