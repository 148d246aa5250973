# SPDX-License-Identifier: Apache-2.0
"""Networks in the form that the loop evaluates: folded if possible, otherwise unchanged."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from scoresde_fast.devices import Precision
from scoresde_fast.networks import ScoreNetwork
from scoresde_fast.networks.folding import FoldedNetwork, TimedFoldedNetwork


class Evaluator(Protocol):
    """A network that reads its time labels from a table on the device."""

    def __call__(self, x: Tensor, row: Tensor) -> Tensor:
        """(B, C, H, W) float32 contiguous, (1,) int64 -> (B, C, H, W) float32 contiguous."""

    def stale(self) -> bool:
        """Return whether the evaluator is outdated, because the network has changed."""


class TimedEvaluator(Protocol):
    """A network evaluated with a separate time for each sample."""

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, ...), (B,) in the dtype of the network -> (B, ...)."""

    def stale(self) -> bool:
        """See `Evaluator.stale`."""


class TimedPlainNetwork(nn.Module):
    """Any network ``network(x, labels)``, (B, ...), (B,) -> (B, ...), unchanged."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._addresses = _addresses(network)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, ...), (B,) -> (B, ...)."""
        output: Tensor = self.network(x, labels)
        return output

    def stale(self) -> bool:
        """Return whether a weight was replaced; in-place changes take effect anyway, even in a captured graph."""
        return self._addresses != _addresses(self.network)


class PlainNetwork(TimedPlainNetwork):
    """Any network, unchanged, with a table of its time labels.

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
        precision: precision of the network.
    """
    if isinstance(network, ScoreNetwork):
        return FoldedNetwork(network, labels, precision)
    return PlainNetwork(network, labels)


def timed_evaluator(network: nn.Module, precision: Precision) -> TimedEvaluator:
    """Return the fastest evaluator with a separate time for each sample; it supports forward-mode tangents."""
    if isinstance(network, ScoreNetwork):
        return TimedFoldedNetwork(network, precision)
    return TimedPlainNetwork(network)
