# SPDX-License-Identifier: Apache-2.0
"""Operator namespaces, and how an operation enters them.

``scoresde_fast::X`` is what the package calls: it hands over to the backend that `Operation.choose` names.  The
backends are operators too, of the same schema, each in a namespace of its own, so that none can clash with another
and each can be compiled through, checked and timed alone: ``scoresde_fast_reference`` (plain PyTorch),
``scoresde_fast_triton``, and ``scoresde_fast_C`` (C++ and CUDA, defined by the extension).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch.library import Library

from scoresde_fast import _extension
from scoresde_fast.devices import WITHOUT_CUDA
from scoresde_fast.ops.backends import Backend, Operation, register

library = Library("scoresde_fast", "DEF")
_reference = Library("scoresde_fast_reference", "DEF")
_triton = Library("scoresde_fast_triton", "DEF")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton kernels run in Triton's interpreter, on a CPU: for tests."""

TRITON = ("3.6", "4.0")
"""The oldest Triton that the kernels run with, and the first that they are not written for."""


def define(
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    order: Sequence[str] = ("cuda", "triton", "cpu"),
    checked: Sequence[str] = (),
) -> Operation:
    """Define an operation in every namespace that has it.

    Args:
        schema: "name(Tensor x, ...) -> Tensor".
        reference: the meaning, in plain PyTorch, on any device.
        fake: shapes, dtypes and strides of what it returns.
        order: the backends it has, the fastest first; ``kernels/NAME.py`` has a launcher of the operation's name.
        checked: those of them that refuse bad arguments themselves.
    """
    name = schema.partition("(")[0]
    library.define(schema)
    _reference.define(schema)
    _reference.impl(name, reference, "CompositeExplicitAutograd")
    backends = {}
    for backend in order:
        make = _triton_backend if backend == "triton" else _extension_backend
        backends[backend] = replace(make(name, schema, backend), checks=backend in checked)
    operation = register(Operation(name, getattr(torch.ops.scoresde_fast_reference, name).default, backends))
    for key in ("CPU", "CUDA"):
        library.impl(name, _chooser(operation, key.lower()), key)
    for namespace in ("scoresde_fast", "scoresde_fast_reference", "scoresde_fast_triton", "scoresde_fast_C"):
        if _defined(namespace, name):
            torch.library.register_fake(f"{namespace}::{name}", fake)
    return operation


def _chooser(operation: Operation, device: str) -> Callable[..., Any]:
    return lambda *arguments: operation.choose(device)(*arguments)


def _defined(namespace: str, name: str) -> bool:
    return hasattr(getattr(torch.ops, namespace), name)


def _extension_backend(name: str, _schema: str, backend: str) -> Backend:
    """A kernel of the C++ extension for the device type that the backend is named after."""
    why = _extension.why_missing
    if why is None and not _defined("scoresde_fast_C", name):
        why = f"the C++ extension was built from other sources; to build it: {_extension.build_command()}"
    if why is None and not torch._C._dispatch_has_kernel_for_dispatch_key(f"scoresde_fast_C::{name}", backend.upper()):
        why = "the C++ extension was built without CUDA (needs nvcc on PATH when it is built)"
    if why is not None:
        return Backend(_absent, (backend,), missing=why)
    return Backend(getattr(torch.ops.scoresde_fast_C, name).default, (backend,))


def _triton_backend(name: str, schema: str, _backend: str) -> Backend:
    """The launcher of ``kernels/NAME.py``, imported at its first call: Triton is slow to import."""
    if why := why_no_triton():
        return Backend(_absent, ("cuda",), missing=why)

    @cache
    def launcher() -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(import_module(f"scoresde_fast.kernels.{name}"), name)
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


@cache
def why_no_triton() -> str | None:
    """Why Triton's kernels cannot be used, in one sentence that says what to do, or None."""
    if not INTERPRETED and torch.version.cuda is None:
        return WITHOUT_CUDA
    oldest, beyond = TRITON
    allowed = f"pip install 'triton>={oldest},<{beyond}'"
    if find_spec("triton") is None:
        return f"Triton is not installed: {allowed} (on Linux)"
    # A Triton under another name, such as those of torch's nightly builds, has no version here; it is tried.
    version = next((found.version for found in metadata.distributions(name="triton")), oldest)
    if _version(oldest) <= _version(version) < _version(beyond):
        return None
    return f"Triton {version} is not supported; the kernels need {oldest} or newer, below {beyond}: {allowed}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")[:2]))


def _absent(*_arguments: Any) -> Any:
    raise RuntimeError("this backend is absent")
