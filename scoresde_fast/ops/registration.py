# SPDX-License-Identifier: Apache-2.0
"""Registration of operations with PyTorch's dispatcher, their backends, and the choice of one.

``scoresde_fast::X`` is what the package calls; it forwards to the backend that `Operation.choose` picks.  Each backend
is an operator of the same schema in a separate namespace, so that names cannot clash and each backend can be compiled
through, checked and timed alone: ``scoresde_fast_reference`` (plain PyTorch), ``scoresde_fast_triton``, and
``scoresde_fast_C`` (C++ and CUDA, defined by the extension).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch.library import Library

from scoresde_fast import _extension
from scoresde_fast.devices import WITHOUT_CUDA
from scoresde_fast.errors import unknown_message

VARIABLE = "SCORESDE_FAST_BACKEND"
BACKENDS = ("auto", "reference", "triton", "cuda", "cpu")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton kernels run in Triton's interpreter, on a CPU: for tests."""
TRITON = ("3.6", "4.0")
"""The oldest supported Triton, and the first unsupported one."""

library = Library("scoresde_fast", "DEF")
_reference = Library("scoresde_fast_reference", "DEF")
_triton = Library("scoresde_fast_triton", "DEF")


@dataclass(frozen=True)
class Backend:
    """A faster implementation of an operation.

    Attributes:
        function: called with the arguments of the operation's schema.
        devices: the device types for which "auto" picks it.
        on_request: further device types on which it runs when named: Triton's interpreter on a CPU.
        missing: one sentence that says why it is absent and what to do, or None.
        checks: whether it raises RuntimeError for arguments that it does not support, so that the wrapper need not
            check them first.
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
    """An operation: the PyTorch reference, which defines the result, and its backends, fastest first."""

    name: str
    reference: Callable[..., Any]
    backends: dict[str, Backend] = field(default_factory=dict)
    _default: dict[torch.device, Backend] = field(default_factory=dict, repr=False, compare=False)

    def choose(self, device: torch.device | str = "cpu", backend: str | None = None) -> Callable[..., Any]:
        """Return the implementation for tensors on ``device``.

        Args:
            device: where the tensors are.
            backend: one of `BACKENDS`; None reads the environment variable SCORESDE_FAST_BACKEND, and without it is
                "auto", the fastest backend that is present.  The variable applies to all operations at once: an
                operation that has no backend of that name uses its reference.

        Raises:
            ValueError: the backend is unknown.
            RuntimeError: the backend cannot run here.
        """
        return self._find(device, backend).function

    def default(self, device: torch.device) -> Backend:
        """Return the default backend of a device, chosen at the first call: choosing takes longer than a small image.

        Its function is the operator that PyTorch's ``OpOverload`` calls in turn, which saves a microsecond.
        """
        backend = self._default.get(device)
        if backend is None:
            chosen = self._find(device, None)
            backend = self._default[device] = replace(chosen, function=getattr(chosen.function, "_op", chosen.function))
        return backend

    def present(self, backend: str) -> bool:
        """Whether the operation has this backend, and it is present."""
        return backend in self.backends and self.backends[backend].missing is None

    def _find(self, device: torch.device | str, backend: str | None) -> Backend:
        name = backend or os.environ.get(VARIABLE) or "auto"
        kind, reference = torch.device(device).type, Backend(self.reference, ())
        if name not in BACKENDS:
            raise ValueError(unknown_message("backend", name, BACKENDS))
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


#: Every operation by its name.
operations: dict[str, Operation] = {}


def define(
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any] | None = None,
    *,
    order: Sequence[str] = ("cuda", "triton", "cpu"),
    checked: Sequence[str] = (),
) -> Operation:
    """Define an operation in every namespace that implements it, and list it in `operations`.

    Args:
        schema: "name(Tensor x, ...) -> Tensor".
        reference: the definition, in plain PyTorch, on any device.
        fake: shapes, dtypes and strides of the results; None for an operation that only writes in place.
        order: its backends, fastest first.
        checked: the backends that check their arguments themselves.
    """
    name = schema.partition("(")[0]
    library.define(schema)
    _reference.define(schema)
    _reference.impl(name, reference, "CompositeExplicitAutograd")
    backends = {}
    for backend in order:
        found = _triton_backend(name, schema) if backend == "triton" else _extension_backend(name, backend)
        backends[backend] = replace(found, checks=backend in checked)
    operation = Operation(name, getattr(torch.ops.scoresde_fast_reference, name).default, backends)
    operations[name] = operation
    for device in ("cpu", "cuda"):
        library.impl(name, _dispatch_to(operation, device), device.upper())
    for namespace in ("scoresde_fast", "scoresde_fast_reference", "scoresde_fast_triton", "scoresde_fast_C"):
        if _defined(namespace, name):
            torch.library.register_fake(f"{namespace}::{name}", fake or _in_place)
    return operation


def _dispatch_to(operation: Operation, device: str) -> Callable[..., Any]:
    return lambda *arguments: operation.choose(device)(*arguments)


def _in_place(*_arguments: Any) -> None:
    return None


def _defined(namespace: str, name: str) -> bool:
    return hasattr(getattr(torch.ops, namespace), name)


def _extension_backend(name: str, backend: str) -> Backend:
    """A kernel of the C++ extension, for the device type that the backend is named after."""
    why = _extension.why_missing
    if why is None and not _defined("scoresde_fast_C", name):
        why = f"the C++ extension was built from other sources; to build it: {_extension.build_command()}"
    if why is None and not torch._C._dispatch_has_kernel_for_dispatch_key(f"scoresde_fast_C::{name}", backend.upper()):
        why = "the C++ extension was built without CUDA (needs nvcc on PATH when it is built)"
    if why is not None:
        return Backend(_absent, (backend,), missing=why)
    return Backend(getattr(torch.ops.scoresde_fast_C, name).default, (backend,))


def _triton_backend(name: str, schema: str) -> Backend:
    """The operation's launcher in ``scoresde_fast.kernels``, imported at its first call: importing Triton is slow."""
    if why := why_no_triton():
        return Backend(_absent, ("cuda",), missing=why)

    @cache
    def launcher() -> Callable[..., Any]:
        found: Callable[..., Any] = import_module("scoresde_fast.kernels").launcher(name)
        return found

    def launch(*arguments: Any) -> Any:
        device = next(argument.device for argument in arguments if isinstance(argument, torch.Tensor))
        if device.type != "cuda" or device.index == torch.cuda.current_device():
            return launcher()(*arguments)
        with torch.cuda.device(device):
            return launcher()(*arguments)

    _triton.define(schema)
    for key in ("CUDA", "CPU") if INTERPRETED else ("CUDA",):
        _triton.impl(name, launch, key)
    function = getattr(torch.ops.scoresde_fast_triton, name).default
    return Backend(function, ("cuda",), on_request=("cpu",) if INTERPRETED else ())


def _absent(*_arguments: Any) -> Any:
    raise RuntimeError("this backend is absent")


@cache
def why_no_triton() -> str | None:
    """Return one sentence that says why Triton kernels cannot run here and what to do, or None."""
    if not INTERPRETED and torch.version.cuda is None:
        return WITHOUT_CUDA
    oldest, beyond = TRITON
    allowed = f"pip install 'triton>={oldest},<{beyond}'"
    if find_spec("triton") is None:
        return f"Triton is not installed: {allowed} (on Linux)"
    # A Triton under another name, such as that of torch's nightly builds, has no version here: try it.
    version = next((found.version for found in metadata.distributions(name="triton")), oldest)
    if _version(oldest) <= _version(version) < _version(beyond):
        return None
    return f"Triton {version} is not supported; the kernels need {oldest} or newer, below {beyond}: {allowed}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")[:2]))
