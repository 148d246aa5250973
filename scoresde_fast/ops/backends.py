# SPDX-License-Identifier: Apache-2.0
"""The backends of an operation, which of them are present here, and the choice of one, made once for a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from scoresde_fast import _extension
from scoresde_fast.errors import unknown

VARIABLE = "SCORESDE_FAST_BACKEND"
BACKENDS = ("auto", "reference", "triton", "cuda", "cpu")


@dataclass(frozen=True)
class Backend:
    """A faster implementation: the device types it runs on, and why it is absent here (None: it is present).

    Attributes:
        function: called with the arguments of the operation's schema.
        devices: the device types that "auto" uses it for.
        on_request: device types it runs on too, when asked for by name: Triton's interpreter on a CPU.
        missing: one sentence that says why and what to do, or None.
        checks: whether it refuses what it cannot take by a RuntimeError, so that nothing need be checked before.
    """

    function: Callable[..., Any]
    devices: tuple[str, ...]
    on_request: tuple[str, ...] = ()
    missing: str | None = None
    checks: bool = False

    def refusal(self, device: str, *, by_name: bool = False) -> str | None:
        """Why it cannot run on tensors of this device type, or None."""
        allowed = self.devices + (self.on_request if by_name else ())
        return self.missing or (None if device in allowed else f"it runs on {allowed[0]} tensors, not on {device}")


@dataclass(frozen=True)
class Operation:
    """An operation: the PyTorch reference, which defines the result, and its backends, the fastest first."""

    name: str
    reference: Callable[..., Any]
    backends: dict[str, Backend] = field(default_factory=dict)
    _default: dict[torch.device, Backend] = field(default_factory=dict, repr=False, compare=False)

    def choose(self, device: torch.device | str = "cpu", backend: str | None = None) -> Callable[..., Any]:
        """The implementation for tensors on ``device``.

        ``backend`` is one of `BACKENDS`; None takes the environment variable SCORESDE_FAST_BACKEND, else "auto": the
        fastest that is present. Raises ValueError for an unknown name, RuntimeError for one that cannot run here; the
        variable speaks of all operations at once, so one that never had such a backend takes its reference.
        """
        return self._find(device, backend).function

    def _find(self, device: torch.device | str, backend: str | None) -> Backend:
        name = backend or os.environ.get(VARIABLE) or "auto"
        kind, reference = torch.device(device).type, Backend(self.reference, ())
        if name not in BACKENDS:
            raise ValueError(unknown("backend", name, BACKENDS))
        if name == "reference" or (backend is None and name not in ("auto", *self.backends)):
            return reference
        if name == "auto":
            found = next((chosen for chosen in self.backends.values() if chosen.refusal(kind) is None), reference)
            absent = [chosen.missing for chosen in self.backends.values() if chosen.missing and kind in chosen.devices]
            if found is reference and absent:
                _extension.warn_once(kind, "; ".join(absent))
            return found
        chosen = self.backends.get(name)
        why = chosen.refusal(kind, by_name=True) if chosen else "there is no such implementation"
        if chosen is None or why:
            raise RuntimeError(f"backend {name!r} of {self.name} cannot be used: {why}; choose 'auto' or 'reference'")
        return chosen

    def present(self, backend: str) -> bool:
        """Whether a backend of that name is here."""
        return backend in self.backends and self.backends[backend].missing is None

    def default(self, device: torch.device) -> Backend:
        """What `choose` took for the device when it was first asked: asking takes longer than a small image.

        The function is what an operator of PyTorch's calls in its turn, which is a microsecond nearer.
        """
        backend = self._default.get(device)
        if backend is None:
            chosen = self._find(device, None)
            backend = self._default[device] = replace(chosen, function=getattr(chosen.function, "_op", chosen.function))
        return backend


#: Every operation by its name, for `scoresde_fast.environment`.
operations: dict[str, Operation] = {}


def register(operation: Operation) -> Operation:
    """Lists ``operation`` under its name; returns it."""
    operations[operation.name] = operation
    return operation
