# SPDX-License-Identifier: Apache-2.0
"""Networks in the form that the loop evaluates, folded if possible, and warnings for networks that run slower."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from scoresde_fast.devices import Precision
from scoresde_fast.networks import ScoreNetwork
from scoresde_fast.networks.folding import FoldedNetwork, TimedFoldedNetwork

INTERNAL_PATHS = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], Path(torch.__file__).parent))
"""Folders of this package and of PyTorch; warnings point at the first line outside them."""


class Evaluator(Protocol):
    """A network prepared for inference, made by `evaluator` or `timed_evaluator`."""

    def __call__(self, x: Tensor, time: Tensor, /) -> Tensor:
        """Map (B, ...) contiguous to (B, ...); ``time`` is a row (1,) int64, or for `timed_evaluator` labels (B,)."""

    def stale(self) -> bool:
        """Return whether the evaluator is outdated, because the network has changed."""


def evaluator(network: nn.Module, labels: Tensor, precision: Precision) -> Evaluator:
    """Return the fastest evaluator of a network on its device; it is called with a row of the table ``labels``.

    Args:
        network: ``network(x, labels)``.
        labels: (rows,) float32 on the network's device.
        precision: precision of the network.
    """
    if isinstance(network, ScoreNetwork):
        return FoldedNetwork(network, labels, precision)
    return PlainNetwork(network, labels)


def timed_evaluator(network: nn.Module, precision: Precision) -> Evaluator:
    """Return the fastest evaluator with a label for each sample; it supports forward-mode tangents."""
    if isinstance(network, ScoreNetwork):
        return TimedFoldedNetwork(network, precision)
    return TimedPlainNetwork(network)


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
    """Any network, unchanged, with a table of its time labels (rows,) float32."""

    labels: Tensor

    def __init__(self, network: nn.Module, labels: Tensor) -> None:
        super().__init__(network)
        self.register_buffer("labels", labels, persistent=False)

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        """(B, ...), (1,) int64 -> (B, ...), contiguous."""
        return super().forward(x, self.labels.index_select(0, row).expand(len(x))).contiguous()


def _addresses(network: nn.Module) -> list[int]:
    return [tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())]


def warn_user(message: str) -> None:
    """Warn at the innermost calling line outside this package and PyTorch."""
    callers = enumerate(traceback.walk_stack(sys._getframe()), 1)
    level = next(level for level, (frame, _) in callers if not frame.f_code.co_filename.startswith(INTERNAL_PATHS))
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def warn_slower(network: nn.Module, done: str, option: str, error: Exception) -> None:
    """Warn that a network runs slower than requested.

    Args:
        network: the network; the warning names its class.
        done: the failed action as a participle, e.g. "compiled".
        option: the option that requests the action; setting it to False silences the warning.
        error: the reason; the warning quotes it and the line of the network that raised it.
    """
    reason = " ".join(list(filter(str.strip, str(error).splitlines()))[:2]) or type(error).__name__
    warn_user(
        f"{type(network).__name__} cannot be {done}: {reason}{_raised_at(error)}; "
        f"it runs anyway, but more slowly; {option}=False silences this warning"
    )


def _raised_at(error: Exception) -> str:
    """Return " (at FILE:LINE)" for the innermost module in the traceback, or ""."""
    location = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and not type(module).__module__.startswith("torch"):
            location = f" (at {frame.f_code.co_filename}:{line})"
    return location
