# SPDX-License-Identifier: Apache-2.0
"""Groups of options that commands share; where the library has a dataclass of them, made of it, documentation too."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import Field, dataclass, fields, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeAlias, get_args, get_type_hints

from tyro.conf import FlagCreatePairsOff, arg

from scoresde_fast.flow.options import AdaptiveOptions
from scoresde_fast.run_options import RunOptions
from scoresde_fast.solvers.options import SolverOptions

if TYPE_CHECKING:
    from scoresde_fast.model import ScoreModel

NO_DEFAULT = arg(help_behavior_hint="")
Flag = FlagCreatePairsOff[Annotated[bool, NO_DEFAULT]]
"""False unless it is given; it has no counterpart that begins with --no."""


def optional(options: type, *, otherwise: str = "", without: Collection[str] = ()) -> type:
    """A dataclass with the fields of ``options``, their types and their documentation; None stands for "not given".

    Args:
        options: a dataclass whose docstring describes its attributes.
        otherwise: what holds where nothing is given, a sentence for all fields; else the help names each one's default.
        without: fields to leave out.
    """
    hints = get_type_hints(options)
    summary, *details = (options.__doc__ or "").splitlines()
    namespace = {"__doc__": "\n".join([f"{summary} {otherwise}".rstrip(), *details])}
    groups = [
        (field.name, Annotated[_of_words(hints[field.name]), NO_DEFAULT if otherwise else _default(field)], None)
        for field in fields(options)
        if field.name not in without
    ]
    return make_dataclass(options.__name__, groups, frozen=True, namespace=namespace)


def given(*groups: Any) -> dict[str, Any]:
    """The options of the groups that were given, by name."""
    return {name: value for group in groups for name, value in vars(group).items() if value is not None}


def process_device(device: str) -> str:
    """``device``; of processes that torchrun started on a machine, with "cuda" each has a GPU of its own."""
    local_rank = os.environ.get("LOCAL_RANK")
    return device if device != "cuda" or local_rank is None else f"cuda:{local_rank}"


def _of_words(hint: Any) -> Any:
    """What is read from the command line: a flag where the option can be one, and text where it can be text."""
    simplest = next((kind for kind in (bool, str) if kind in get_args(hint)), hint)
    return Optional[simplest]  # noqa: UP045  (the type is known only here)


def _default(field: Field[Any]) -> Any:
    """Tells the default, where there is one to tell."""
    told = field.default is not None and field.default is not False
    return arg(help_behavior_hint=f"(default: {field.default})") if told else NO_DEFAULT


if TYPE_CHECKING:
    SolverGroup: TypeAlias = SolverOptions
    ToleranceGroup: TypeAlias = AdaptiveOptions
    RunGroup: TypeAlias = RunOptions
else:
    SolverGroup = optional(
        SolverOptions, otherwise="What is left out is the model's own, or else usual for the solver."
    )
    ToleranceGroup = optional(
        AdaptiveOptions,
        otherwise="What is left out is usual for the solver.",
        without=[field.name for field in fields(SolverOptions)],
    )
    RunGroup = optional(RunOptions)


@dataclass(frozen=True)
class LoadingOptions:
    """How a model is loaded.

    Attributes:
        config: For a .pth: the preset it belongs to (ve/cifar10_ncsnpp_continuous), or a JSON file.
        raw: For a .pth: the raw weights instead of their moving average.
        threads: CPU threads.
    """

    config: Annotated[str | None, NO_DEFAULT] = None
    raw: Flag = False
    threads: Annotated[int | None, arg(help_behavior_hint="(default: torch's)")] = None

    def load(self, name: str) -> ScoreModel:
        """The model of that name, with the process made ready to compute."""
        import scoresde_fast as sf
        from scoresde_fast.cli.threads import use_threads
        from scoresde_fast.devices import keep_freed_memory

        keep_freed_memory()
        use_threads(self.threads)
        return sf.load(name, config=self.config, ema=not self.raw)
