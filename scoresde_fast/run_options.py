# SPDX-License-Identifier: Apache-2.0
"""Options of a run: device, precision, batches and noise; and how keyword arguments become option dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from inspect import Parameter, signature
from typing import Any, Literal, TypeVar

from scoresde_fast.errors import RENAMED, unknown_message

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class RunOptions:
    """How a run is computed.

    Attributes:
        run_seed: Seed of the whole run, 0 to 2^64 - 1; another one gives other images for the same seeds.
        batch_size: Images computed together; auto: as many as fit on the GPU, found by trial once and remembered;
            on a CPU 64.
        device: cpu, cuda or cuda:1.
        precision: Precision of the network; auto: bf16 on a GPU that has it, and fp32 on a CPU or with an adaptive
            solver. State, coefficients and noise are always float32.
        strict: Make images equal to the last bit for every batch size, choice of other seeds and number of CPU threads.
        compile: Compile the network; auto: on a GPU. A network whose gradient a condition takes is not compiled.
        capture: Capture the loop as CUDA graphs; auto: on a GPU.
        backend: Implementation of noise and steps: auto (the fastest available), triton, cuda, cpu or reference; the
            default is the environment variable SCORESDE_FAST_BACKEND, or auto.
    """

    run_seed: int = 0
    batch_size: int | Literal["auto"] = 64
    device: str = "cpu"
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    strict: bool = False
    compile: bool | Literal["auto"] = "auto"
    capture: bool | Literal["auto"] = "auto"
    backend: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device))  # accepts a torch.device
        if self.batch_size != "auto":
            require_batch_size(self.batch_size)


def require_batch_size(batch_size: int) -> None:
    """Raise ``ValueError`` unless ``batch_size`` is a whole number of at least 1."""
    if not isinstance(batch_size, int) or isinstance(batch_size, bool):
        raise ValueError(f"batch_size is {batch_size!r}; choose a whole number or 'auto'")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1, or 'auto'")


def names(*groups: type) -> list[str]:
    """Return the names of all fields of some dataclasses, each once."""
    return list(dict.fromkeys(field.name for group in groups for field in fields(group)))


def split_options(options: Mapping[str, Any], known: Iterable[str]) -> tuple[dict[str, Any], RunOptions]:
    """Split keyword arguments into those with ``known`` names that are not None, and the options of the run.

    Raises:
        TypeError: a name is neither known nor an option of the run.
        ValueError: an option of the run is out of range.
    """
    of_run = names(RunOptions)
    known = [*known, *of_run]
    for name in options:
        if RENAMED.get(name) in known:
            raise TypeError(f"option {name!r} is now called {RENAMED[name]!r}")
        if name not in known:
            raise TypeError(unknown_message("option", name, known))
    given = {name: value for name, value in options.items() if value is not None}
    run = RunOptions(**{name: value for name, value in given.items() if name in of_run})
    return {name: value for name, value in given.items() if name not in of_run}, run


def accepting_options(*groups: type) -> Callable[[Function], Function]:
    """Make ``help`` and completion show the dataclass fields that a function takes as ``**options``.

    The default is shown as None where the model or the solver decides; fields of `RunOptions` show their own.
    """

    def with_signature(function: Function) -> Function:
        own = signature(function)
        named = [p for p in own.parameters.values() if p.kind != Parameter.VAR_KEYWORD]
        defaults = dict.fromkeys(names(*groups)) | {field.name: field.default for field in fields(RunOptions)}
        more = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=default)
            for name, default in defaults.items()
            if name not in own.parameters
        ]
        function.__signature__ = own.replace(parameters=[*named, *more])  # type: ignore[attr-defined]
        return function

    return with_signature
