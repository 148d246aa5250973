# SPDX-License-Identifier: Apache-2.0
"""Networks as the loop evaluates them: folded where that is possible, otherwise as they are."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from scoresde_fast.devices import Precision
from scoresde_fast.networks import ScoreNetwork
from scoresde_fast.networks.folding import FoldedNetwork, TimedFoldedNetwork


class Evaluator(Protocol):
    """A network whose time labels are rows of a table on the device."""

    def __call__(self, x: Tensor, row: Tensor) -> Tensor:
        """(B, C, H, W) float32 contiguous, (1,) int64 -> (B, C, H, W) float32 contiguous."""

    def stale(self) -> bool:
        """Return whether the network has changed in a way that this evaluator does not follow."""


class TimedEvaluator(Protocol):
    """A network of samples that each have their own time."""

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, ...), (B,) in the dtype of the network -> (B, ...)."""

    def stale(self) -> bool:
        """As `Evaluator.stale`."""


class TimedPlainNetwork(nn.Module):
    """Any network ``network(x, labels)``, (B, ...), (B,) -> (B, ...), as it is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._addresses = _addresses(network)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, ...), (B,) -> (B, ...)."""
        output: Tensor = self.network(x, labels)
        return output

    def stale(self) -> bool:
        """Return whether a weight has moved; values that change in place are followed, even by a captured graph."""
        return self._addresses != _addresses(self.network)


class PlainNetwork(TimedPlainNetwork):
    """Any network as it is, with a table of its time labels.

    Args:
        network: ``network(x, labels)``, (B, ...), (B,) -> (B, ...).
        labels: (rows,) float32, the label of each row of the program.
    """

    labels: Tensor

    def __init__(self, network: nn.Module, labels: Tensor) -> None:
        super().__init__(network)
        self.register_buffer("labels", labels, persistent=False)

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        """(B, ...), (1,) int64 -> (B, ...), contiguous."""
        return super().forward(x, self.labels.index_select(0, row).expand(len(x))).contiguous()


def _addresses(network: nn.Module) -> list[int]:
    return [tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())]


def evaluator(network: nn.Module, labels: Tensor, precision: Precision) -> Evaluator:
    """Return the fastest evaluator of a network on its device.

    Args:
        network: ``network(x, labels)``.
        labels: (rows,) float32 on the network's device.
        precision: what the network computes in.
    """
    if isinstance(network, ScoreNetwork):
        return FoldedNetwork(network, labels, precision)
    return PlainNetwork(network, labels)


def timed_evaluator(network: nn.Module, precision: Precision) -> TimedEvaluator:
    """As `evaluator`, for samples that each have their own time; forward-mode tangents pass through it."""
    if isinstance(network, ScoreNetwork):
        return TimedFoldedNetwork(network, precision)
    return TimedPlainNetwork(network)
