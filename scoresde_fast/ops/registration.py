# SPDX-License-Identifier: Apache-2.0
"""Registration of operations and their backends with PyTorch's dispatcher, and backend selection.

The package calls ``scoresde_fast::X``, which forwards to the backend that `Operation.choose` selects.  Each backend is
an operator with the same schema in its own namespace, so it can be compiled, checked and timed separately:
``scoresde_fast_reference`` (plain PyTorch), ``scoresde_fast_triton``, and ``scoresde_fast_C`` (C++ and CUDA, defined by
the extension).
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
from scoresde_fast.errors import UnavailableBackendError, unknown_message

VARIABLE = "SCORESDE_FAST_BACKEND"
BACKENDS = ("auto", "reference", "triton", "cuda", "cpu")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton kernels run in Triton's interpreter on a CPU, for tests."""
TRITON = ("3.6", "4.0")
"""The oldest supported version of Triton, and the first version that is too new."""

library = Library("scoresde_fast", "DEF")
_reference = Library("scoresde_fast_reference", "DEF")
_triton = Library("scoresde_fast_triton", "DEF")


@dataclass(frozen=True)
class Backend:
    """An implementation of an operation that is faster than the reference.

    Attributes:
        function: the implementation; takes the arguments of the operation's schema.
        devices: device types on which "auto" selects the backend.
        on_request: further device types on which the backend runs if selected by name (Triton's interpreter on a CPU).
        missing: why the backend is unavailable and how to get it; None if it is available.
        checks: whether it raises RuntimeError for unsupported arguments, so that the wrapper need not check them first.
    """

    function: Callable[..., Any]
    devices: tuple[str, ...]
    on_request: tuple[str, ...] = ()
    missing: str | None = None
    checks: bool = False

    def refusal(self, device: str, *, by_name: bool = False) -> str | None:
        """Return why the backend cannot run on this device type, or None."""
        allowed = self.devices + (self.on_request if by_name else ())
        return self.missing or (None if device in allowed else f"it runs on {allowed[0]} tensors, not on {device}")


@dataclass(frozen=True)
class Operation:
    """An operation: its PyTorch reference, which defines the result, and its backends, fastest first."""

    name: str
    reference: Callable[..., Any]
    backends: dict[str, Backend] = field(default_factory=dict)
    _default: dict[torch.device, Backend] = field(default_factory=dict, repr=False, compare=False)

    def choose(self, device: torch.device | str = "cpu", backend: str | None = None) -> Callable[..., Any]:
        """Return the implementation for tensors on ``device``.

        Args:
            device: device of the tensors.
            backend: one of `BACKENDS`; "auto" is the fastest available backend.  None reads the environment variable
                SCORESDE_FAST_BACKEND (default "auto"), which applies to all operations: an operation without that
                backend uses its reference.

        Raises:
            ValueError: the backend is unknown.
            RuntimeError: the backend is not available for this operation and device.
        """
        return self._find(device, backend).function

    def default(self, device: torch.device) -> Backend:
        """Return the default backend of a device.

        It is cached, because selecting it takes longer than the operation on a small image.  Its ``function`` is the
        C++ operator behind PyTorch's ``OpOverload``, which saves a microsecond per call.
        """
        backend = self._default.get(device)
        if backend is None:
            chosen = self._find(device, None)
            backend = self._default[device] = replace(chosen, function=getattr(chosen.function, "_op", chosen.function))
        return backend

    def present(self, backend: str) -> bool:
        """Return whether the operation has this backend and it is available."""
        return backend in self.backends and self.backends[backend].missing is None

    def _find(self, device: torch.device | str, backend: str | None) -> Backend:
        name = (os.environ.get(VARIABLE) or "auto") if backend is None else backend
        kind, reference = torch.device(device).type, Backend(self.reference, ())
        if name not in BACKENDS:
            raise ValueError(unknown_message("backend", name, BACKENDS))
        if name == "reference" or (backend is None and name not in ("auto", *self.backends)):
            return reference
        if name == "auto":
            backends = self.backends.values()
            fastest = next((candidate for candidate in backends if candidate.refusal(kind) is None), reference)
            reasons = [candidate.missing for candidate in backends if candidate.missing and kind in candidate.devices]
            if fastest is reference and reasons:
                _extension.warn_once(kind, "; ".join(reasons))
            return fastest
        chosen = self.backends.get(name)
        reason = chosen.refusal(kind, by_name=True) if chosen else "the operation has no such backend"
        if chosen is None or reason:
            raise UnavailableBackendError(
                f"backend {name!r} of {self.name} cannot be used: {reason}; choose 'auto' or 'reference'"
            )
        return chosen


operations: dict[str, Operation] = {}
"""All operations by name."""


def define(
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any] | None = None,
    *,
    order: Sequence[str] = ("cuda", "triton", "cpu"),
    checked: Sequence[str] = (),
) -> Operation:
    """Register an operation with all its backends and return it; it is added to `operations`.

    Args:
        schema: "name(Tensor x, ...) -> Tensor".
        reference: the definition in plain PyTorch, for any device.
        fake: returns empty results with the right shapes, dtypes and strides; None for an in-place operation.
        order: backends, fastest first.
        checked: backends that check their arguments, see `Backend.checks`.
    """
    name = schema.partition("(")[0]
    library.define(schema)
    _reference.define(schema)
    _reference.impl(name, reference, "CompositeExplicitAutograd")
    backends = {}
    for label in order:
        backend = _triton_backend(name, schema) if label == "triton" else _extension_backend(name, label)
        backends[label] = replace(backend, checks=label in checked)
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
    """Return a backend of the C++ extension; its name is also its device type."""
    missing = _extension.why_missing
    if missing is None and not _defined("scoresde_fast_C", name):
        missing = f"the C++ extension was built from other sources; to build it: {_extension.build_command()}"
    if missing is None and not torch._C._dispatch_has_kernel_for_dispatch_key(
        f"scoresde_fast_C::{name}", backend.upper()
    ):
        missing = "the C++ extension was built without CUDA (it needs nvcc on PATH at build time)"
    if missing is not None:
        return Backend(_unavailable, (backend,), missing=missing)
    return Backend(getattr(torch.ops.scoresde_fast_C, name).default, (backend,))


def _triton_backend(name: str, schema: str) -> Backend:
    """Return the Triton backend; its launcher in ``scoresde_fast.kernels`` is imported on the first call."""
    if missing := why_no_triton():
        return Backend(_unavailable, ("cuda",), missing=missing)

    @cache
    def launcher() -> Callable[..., Any]:
        function: Callable[..., Any] = import_module("scoresde_fast.kernels").launcher(name)
        return function

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


def _unavailable(*_arguments: Any) -> Any:
    raise RuntimeError("this backend is not available")


@cache
def why_no_triton() -> str | None:
    """Return why Triton kernels cannot run here and how to enable them, or None."""
    if not INTERPRETED and torch.version.cuda is None:
        return WITHOUT_CUDA
    oldest, beyond = TRITON
    install = f"pip install 'triton>={oldest},<{beyond}'"
    if find_spec("triton") is None:
        return f"Triton is not installed: {install} (on Linux)"
    # A Triton distributed under another name, as with torch's nightly builds, has no version here: accept it.
    version = next((package.version for package in metadata.distributions(name="triton")), oldest)
    if _version(oldest) <= _version(version) < _version(beyond):
        return None
    return f"Triton {version} is not supported; the kernels need >={oldest},<{beyond}: {install}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")[:2]))
