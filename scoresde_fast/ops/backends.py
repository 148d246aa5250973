# SPDX-License-Identifier: Apache-2.0
"""The backends of an operation, which of them are present here, and the choice of one, made once for a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from scoresde_fast.errors import unknown

BACKENDS = ("auto", "reference", "cpu")


@dataclass(frozen=True)
class Backend:
    """A faster implementation: the device type it runs on, and why it is absent here (None: it is present)."""

    function: Callable[..., Any]
    device: str
    missing: str | None = None

    def refusal(self, device: str) -> str | None:
        """Why it cannot run on tensors of this device type, or None."""
        return self.missing or (None if device == self.device else f"it runs on {self.device} tensors, not on {device}")


@dataclass(frozen=True)
class Operation:
    """An operation: the PyTorch reference, which defines the result, and its backends, the fastest first."""

    name: str
    reference: Callable[..., Any]
    backends: dict[str, Backend] = field(default_factory=dict)

    def choose(self, device: torch.device | str = "cpu", backend: str | None = None) -> Callable[..., Any]:
        """The implementation for tensors on ``device``.

        ``backend`` is one of `BACKENDS`; None takes the environment variable SCORESDE_FAST_BACKEND, else "auto": the
        fastest that is present. Raises ValueError for an unknown name, RuntimeError for one that cannot run here.
        """
        name = backend or os.environ.get("SCORESDE_FAST_BACKEND") or "auto"
        kind = torch.device(device).type
        if name not in BACKENDS:
            raise ValueError(unknown("backend", name, BACKENDS))
        if name == "reference":
            return self.reference
        if name == "auto":
            return next((b.function for b in self.backends.values() if b.refusal(kind) is None), self.reference)
        chosen = self.backends.get(name)
        why = chosen.refusal(kind) if chosen else "there is no such implementation"
        if chosen is None or why:
            raise RuntimeError(f"backend {name!r} of {self.name} cannot be used: {why}; choose 'auto' or 'reference'")
        return chosen.function


#: Every operation by its name, for `scoresde_fast.environment`.
operations: dict[str, Operation] = {}


def register(operation: Operation) -> Operation:
    """Lists ``operation`` under its name; returns it."""
    operations[operation.name] = operation
    return operation
