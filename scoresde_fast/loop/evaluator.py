# SPDX-License-Identifier: Apache-2.0
"""Networks in the form that the loop evaluates, folded if possible, and warnings for networks that run slower."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from scoresde_fast.devices import DTYPES, Precision
from scoresde_fast.loop.inputs import NetworkInputs
from scoresde_fast.loop.network_guidance import Autoguidance
from scoresde_fast.loop.program import Program
from scoresde_fast.model import network_name, require_float32
from scoresde_fast.networks import ScoreNetwork
from scoresde_fast.networks.folding import FoldedNetwork, TimedFoldedNetwork

INTERNAL_PATHS = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], Path(torch.__file__).parent))
"""Folders of this package and of PyTorch; warnings point at the first line outside them."""


class Evaluator(Protocol):
    """A network prepared for inference, made by `evaluator` or `timed_evaluator`."""

    def __call__(self, x: Tensor, time: Tensor, /, *inputs: Tensor) -> Tensor:
        """Map (B, ...) contiguous to (B, ...); ``time`` is a row (1,) int64, or for `timed_evaluator` labels (B,)."""

    def stale(self) -> bool:
        """Return whether the evaluator is outdated, because the network has changed."""


def evaluator(network: nn.Module, labels: Tensor, precision: Precision, names: Sequence[str] = ()) -> Evaluator:
    """Return the fastest evaluator of a network on its device; it is called with a row of the table ``labels``.

    Args:
        network: ``network(x, labels, **inputs)``.
        labels: (rows,) float32 on the network's device.
        precision: precision of the network.
        names: names of the inputs, in the order in which the evaluator takes them.

    Raises:
        ValueError: the weights are not float32.
    """
    require_float32(network)
    if isinstance(network, ScoreNetwork):
        return FoldedNetwork(network, labels, precision)
    return PlainNetwork(network, labels, precision, names)


def evaluators(
    network: nn.Module, program: Program, inputs: NetworkInputs, precision: Precision
) -> tuple[Evaluator, Evaluator]:
    """Return the evaluators of a program's rows: of the network, and of the guided network for rows that are guided."""
    plain = evaluator(network, program.labels, precision, inputs.names)
    if not any(kind.guided for kind in program.kinds):
        return plain, plain
    weak = None
    if isinstance(inputs.guidance, Autoguidance):
        weak = evaluator(inputs.guidance.model.network, program.labels, precision, inputs.names)
    scales = torch.from_numpy(inputs.scales(program.table.times)).to(program.labels)
    return plain, GuidedNetwork(plain, weak, inputs.null, scales)


def timed_evaluator(network: nn.Module, precision: Precision, names: Sequence[str] = ()) -> Evaluator:
    """Return the fastest evaluator with a label for each sample; arguments and errors are as in `evaluator`."""
    require_float32(network)
    if isinstance(network, ScoreNetwork):
        return TimedFoldedNetwork(network, precision)
    return TimedPlainNetwork(network, precision, names)


def network_form(network: nn.Module) -> str:
    """Return whether a network runs folded or as it is written, for reports."""
    return "folded network" if isinstance(network, ScoreNetwork) else "network as written"


def network_precision(network: nn.Module, precision: Precision) -> Precision:
    """Return the precision in which a network runs: ``precision``, but "fp32" for a network without weights."""
    return "fp32" if DTYPES[precision] != torch.float32 and next(network.parameters(), None) is None else precision


class TimedPlainNetwork(nn.Module):
    """Any network ``network(x, labels, **inputs)``, (B, ...), (B,) -> (B, ...), in half precision by autocast.

    Weights of convolutions are stored as channels_last, in place, which took a tenth off the time of U-Nets on a CPU.
    An autocast of the caller has no effect.  Arguments are those of `evaluator`.
    """

    def __init__(self, network: nn.Module, precision: Precision = "fp32", names: Sequence[str] = ()) -> None:
        super().__init__()
        self.network, self.names = network, tuple(names)
        self.dtype = DTYPES[network_precision(network, precision)]
        for weight in network.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        self._addresses = _addresses(network)

    def forward(self, x: Tensor, labels: Tensor, *inputs: Tensor) -> Tensor:
        """(B, ...), (B,) -> (B, ...)."""
        named = dict(zip(self.names, inputs, strict=True))
        with _autocast(x.device.type, self.dtype):
            output: Tensor = self.network(x, labels, **named)
        return output.to(x.dtype)

    def stale(self) -> bool:
        """Return whether a weight was replaced; in-place changes take effect anyway, even in a captured graph."""
        return self._addresses != _addresses(self.network)


class PlainNetwork(TimedPlainNetwork):
    """Any network, with a table of its time labels (rows,) float32."""

    labels: Tensor

    def __init__(
        self, network: nn.Module, labels: Tensor, precision: Precision = "fp32", names: Sequence[str] = ()
    ) -> None:
        super().__init__(network, precision, names)
        self.register_buffer("labels", labels, persistent=False)

    def forward(self, x: Tensor, row: Tensor, *inputs: Tensor) -> Tensor:
        """(B, ...), (1,) int64 -> (B, ...), contiguous."""
        return super().forward(x, self.labels.index_select(0, row).expand(len(x)), *inputs).contiguous()


class TimedGuidedNetwork(nn.Module):
    """A network guided by a weaker one; see `scoresde_fast.loop.network_guidance`.

    Args:
        strong: the network.
        weak: the weaker network; None for the same one with the inputs ``null``, both in one evaluation.
        null: (1, ...) of each input; None for an input that is kept.
    """

    def __init__(self, strong: Evaluator, weak: Evaluator | None, null: Sequence[Tensor | None]) -> None:
        super().__init__()
        self.strong, self.weak, self.null = strong, weak, tuple(null)

    def forward(self, x: Tensor, labels: Tensor, scale: Tensor, *inputs: Tensor) -> Tensor:
        """(B, ...), (B,), scale (B,) -> (B, ...)."""
        return self._guided(x, labels, labels.repeat(2), scale.view(-1, *[1] * (x.ndim - 1)), inputs)

    def stale(self) -> bool:
        """Return whether one of the networks has changed."""
        return self.strong.stale() or (self.weak is not None and self.weak.stale())

    def _guided(self, x: Tensor, time: Tensor, twice: Tensor, scale: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """Return the guided output; ``twice`` is the time of both halves of a batch of twice the size."""
        if self.weak is not None:
            strong, weak = self.strong(x, time, *inputs), self.weak(x, time, *inputs)
        else:
            doubled = [
                torch.cat([value, value if null is None else null.expand_as(value)])
                for value, null in zip(inputs, self.null, strict=True)
            ]
            strong, weak = self.strong(torch.cat([x, x]), twice, *doubled).chunk(2)
        return torch.lerp(weak, strong, scale.to(x.dtype))


class GuidedNetwork(TimedGuidedNetwork):
    """A guided network with a table of the scales (rows,) float32; its networks are called with a row."""

    scales: Tensor

    def __init__(
        self, strong: Evaluator, weak: Evaluator | None, null: Sequence[Tensor | None], scales: Tensor
    ) -> None:
        super().__init__(strong, weak, null)
        self.register_buffer("scales", scales, persistent=False)

    def forward(self, x: Tensor, row: Tensor, *inputs: Tensor) -> Tensor:
        """(B, ...), (1,) int64 -> (B, ...), contiguous."""
        return self._guided(x, row, row, self.scales.index_select(0, row), inputs)


def _autocast(device_type: str, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return a context in which a network computes in ``dtype``."""
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    half = dtype != torch.float32
    return torch.autocast(device_type, dtype if half else torch.bfloat16, enabled=half)


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
        f"{network_name(network)} cannot be {done}: {reason}{_raised_at(error)}; "
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
