# SPDX-License-Identifier: Apache-2.0
"""Options of a run (device, precision, batch size, noise), and splitting of keyword arguments into options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from inspect import Parameter, signature
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from scoresde_fast.errors import RENAMED, shown, unknown_message

Function = TypeVar("Function", bound=Callable[..., Any])


ARGUMENTS_OF_SAMPLE = ("callback", "trajectory", "progress", "noise", "return_velocity")
"""Arguments that are not options, because they differ from call to call."""


@dataclass(frozen=True)
class RunOptions:
    """Options of a run that do not depend on the solver.

    Attributes:
        run_seed: Seed of the whole run, 0 to 2^64 - 1; a different run seed gives different images for the same seeds.
        batch_size: Images computed together; auto: on a GPU as many as fit, found by trial and cached; on a CPU 64.
        device: cpu, cuda or cuda:1; default: the device of the model in Python, a GPU if there is one at the command
            line.
        precision: Precision of the network; auto: bf16 on a GPU that supports it, fp32 on a CPU or with an adaptive
            solver. State, coefficients and noise are always float32.
        strict: Make images bit-identical for any batch size, any other seeds and any number of CPU threads; auto: with
            adaptive solvers, likelihoods and codes, which otherwise amplify differences of rounding.
        compile: Compile the network; auto: on a GPU. A network whose gradient a condition needs is not compiled.
        capture: Capture the loop as CUDA graphs; auto: on a GPU.
        backend: Implementation of noise and steps: auto (the fastest available), triton, cuda, cpu or reference;
            default: the environment variable SCORESDE_FAST_BACKEND, else auto.
    """

    run_seed: int = 0
    batch_size: int | Literal["auto"] = 64
    device: str | None = None
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    strict: bool | Literal["auto"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    capture: bool | Literal["auto"] = "auto"
    backend: str | None = None

    def __post_init__(self) -> None:
        if self.device is not None and type(self.device).__name__ == "device":
            object.__setattr__(self, "device", str(self.device))  # a torch.device
        require_types(self)
        if not 0 <= self.run_seed < 2**64:
            raise ValueError(f"run_seed is {self.run_seed}; it must be an integer from 0 to 2^64 - 1")
        if self.batch_size != "auto":
            require_batch_size(self.batch_size)


TOO_LARGE = 2**1023
"""Integers from which conversion to a float may fail."""
KINDS: dict[Any, str] = {bool: "True or False", int: "an integer", float: "a number", str: "a name"}
"""Types of options, and what messages call them."""


def require_types(options: Any) -> None:
    """Check the fields of a frozen dataclass of options by their annotations.

    Numbers of NumPy and torch are replaced by those of Python, in place.  An integer is also a number, but neither True
    nor False is one.  Fields of other types than those in `KINDS` are left to the dataclass.

    Raises:
        ValueError: a value is of another type.
    """
    group: Any = type(options)
    for name, kinds in _kinds(group).items():
        value = getattr(options, name)
        if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
            value = value.item()
            object.__setattr__(options, name, value)
        types = [kind for kind in kinds if isinstance(kind, type)]
        names = [kind for kind in kinds if isinstance(kind, str)]
        fits = type(value) in types or (float in types and type(value) is int)
        if kinds and not fits and not (isinstance(value, str) and value in names):
            if isinstance(value, str) and names and not types:
                raise ValueError(unknown_message(name, value, names))
            expected = [*(KINDS[kind] for kind in types if kind is not NoneType), *map(repr, names)]
            raise ValueError(f"{name} is {shown(value)}; it must be {' or '.join(expected)}")
        if type(value) is int and abs(value) >= TOO_LARGE:
            raise ValueError(f"{name} is an integer of {value.bit_length()} bits; it must have fewer than 1024")


@cache
def _kinds(options: type) -> dict[str, tuple[type | str, ...]]:
    """Return the types and names that each field takes; none if one of its types is not simple."""

    def kinds(hint: Any) -> tuple[Any, ...]:
        if get_origin(hint) in (Union, UnionType):
            return tuple(kind for part in get_args(hint) for kind in kinds(part))
        return get_args(hint) if get_origin(hint) is Literal else (hint,)

    found = {name: kinds(hint) for name, hint in get_type_hints(options).items()}
    simple = {*KINDS, NoneType}
    return {name: each if all(isinstance(kind, str) or kind in simple for kind in each) else ()
            for name, each in found.items()}  # fmt: skip


def require_batch_size(batch_size: int) -> None:
    """Raise ValueError unless ``batch_size`` is an integer of at least 1."""
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size is {shown(batch_size)}; it must be an integer of at least 1, or 'auto'")


def names(*groups: type) -> list[str]:
    """Return the field names of the dataclasses, without duplicates."""
    return list(dict.fromkeys(field.name for group in groups for field in fields(group)))


def split_options(
    options: Mapping[str, Any], other_names: Iterable[str], arguments: Iterable[str] = ()
) -> tuple[dict[str, Any], RunOptions]:
    """Split keyword arguments into the options with ``other_names`` and the `RunOptions`; options of None are omitted.

    ``arguments`` are the names of other arguments of the caller, for suggestions.

    Raises:
        TypeError: an option's name is unknown.
        ValueError: an option of the run is out of range.
    """
    run_names = names(RunOptions)
    allowed = [*other_names, *run_names]
    for name in options:
        if RENAMED.get(name) in allowed:
            raise TypeError(f"option {name!r} is now called {RENAMED[name]!r}")
        if name in ARGUMENTS_OF_SAMPLE:
            raise TypeError(f"{name!r} is an argument of sample(): pass it there")
        if name not in allowed:
            raise TypeError(unknown_message("option", name, [*allowed, *arguments]))
    present = {name: value for name, value in options.items() if value is not None}
    run = RunOptions(**{name: value for name, value in present.items() if name in run_names})
    return {name: value for name, value in present.items() if name not in run_names}, run


def accepting_options(*groups: type) -> Callable[[Function], Function]:
    """Return a decorator that makes ``help`` and completion list the fields of the dataclasses for ``**options``.

    Fields of `RunOptions` are listed with their defaults.  Others default to None: the model or the solver decides.
    """

    def with_signature(function: Function) -> Function:
        own = signature(function)
        named = [parameter for parameter in own.parameters.values() if parameter.kind != Parameter.VAR_KEYWORD]
        defaults = dict.fromkeys(names(*groups)) | {field.name: field.default for field in fields(RunOptions)}
        from_groups = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=default)
            for name, default in defaults.items()
            if name not in own.parameters
        ]
        function.__signature__ = own.replace(parameters=[*named, *from_groups])  # type: ignore[attr-defined]
        return function

    return with_signature
