# SPDX-License-Identifier: Apache-2.0
"""Options shared by commands; groups are built from the library's own dataclasses and their docstrings."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import Field, dataclass, field, fields, make_dataclass
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeAlias, get_args, get_type_hints

from tyro.conf import FlagCreatePairsOff, Positional, arg
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from scoresde_fast.cli.network_inputs import NetworkInputOptions
from scoresde_fast.cli.process import process_device, use_threads
from scoresde_fast.files import user_path
from scoresde_fast.flow.options import AdaptiveOptions, FlowOptions
from scoresde_fast.run_options import RunOptions
from scoresde_fast.solvers.options import SolverOptions

if TYPE_CHECKING:
    from scoresde_fast.model import ScoreFunction

NO_DEFAULT = arg(help_behavior_hint="")
Flag = FlagCreatePairsOff[Annotated[bool, NO_DEFAULT]]
"""A flag without a --no- counterpart."""
Threads = Annotated[int | None, arg(help="Number of CPU threads.", help_behavior_hint="(default: torch's)")]
Device = Annotated[
    str | None,
    arg(help="cpu, cuda or cuda:1.", help_behavior_hint="(default: a GPU if there is one)"),
]
BatchSize = Annotated[int, arg(help="Number of images in a batch.")]
OF_FILES = ("weights", "statistics")
"""Options that are too long for a command line, and come from a file."""
OWN_MODEL = "a model in Python (FILE.py:NAME or PACKAGE.MODULE:NAME), whose code is executed"
ModelHelp = arg(
    help="An embedded model (digits-vp), a saved folder, a run of train (its newest weights) or its state.pt, a .pth "
    f"with --config, or {OWN_MODEL}."
)
Model = Positional[Annotated[str, ModelHelp]]
Data = Positional[
    Annotated[
        str,
        arg(
            help="A data set (digits:test), a folder, .zip, .tar, .tar.gz, .npz or .npy of images. With the suffix "
            "@64, @rgb or @64,rgb images are cropped and resized to 64x64, converted to RGB, or both."
        ),
    ]
]


PATHS = ConstructorRegistry()
"""How tyro makes the paths of all options."""


@PATHS.primitive_rule
def _path(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    """Return how an option that is a path is made from its text, see `user_path`."""
    if kind.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda texts: user_path(texts[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


def optional(options: type, *, otherwise: str = "", without: Collection[str] = ()) -> type:
    """Return a dataclass with the fields, types and docstring of ``options``, where None means "not given".

    Args:
        options: a dataclass with an "Attributes:" section in its docstring.
        otherwise: a sentence about all defaults; without it the help states the default of each field.
        without: names of fields to leave out.
    """
    hints = get_type_hints(options)
    doc = re.sub(r"\n {8,}", " ", cleandoc(options.__doc__ or ""))  # tyro would keep some line breaks of an attribute
    summary, _, details = doc.partition("\n")
    namespace = {"__doc__": f"{summary} {otherwise}".rstrip() + f"\n{details}"}
    kept = [
        (field.name, Annotated[_argument_type(hints[field.name]), NO_DEFAULT if otherwise else _default(field)], None)
        for field in fields(options)
        if field.name not in without
    ]
    return make_dataclass(options.__name__, kept, frozen=True, namespace=namespace)


def given(*groups: Any) -> dict[str, Any]:
    """Return {name: value} of the options in ``groups`` that the user gave."""
    return {name: value for group in groups for name, value in vars(group).items() if value is not None}


def _argument_type(hint: Any) -> Any:
    """Return the type that tyro parses: bool or str if a union has it, otherwise ``hint`` itself; all optional."""
    simplest = next((kind for kind in (bool, str) if kind in get_args(hint)), hint)
    return Optional[simplest]  # noqa: UP045  (the type is known only here)


def _default(field: Field[Any]) -> Any:
    """Return the hint that states a default other than None and False."""
    has_default = field.default is not None and field.default is not False
    return arg(help_behavior_hint=f"(default: {field.default})") if has_default else NO_DEFAULT


if TYPE_CHECKING:
    SolverGroup: TypeAlias = SolverOptions
    ToleranceGroup: TypeAlias = AdaptiveOptions
    RunGroup: TypeAlias = RunOptions
    FlowGroup: TypeAlias = FlowOptions
    FlowToleranceGroup: TypeAlias = FlowOptions
else:
    DEFAULTS = "Options that are not given keep their defaults."
    SolverGroup = optional(
        SolverOptions,
        otherwise="Options that are not given are set by the model or the solver.",
        without=OF_FILES,
    )
    ToleranceGroup = optional(
        AdaptiveOptions,
        otherwise="Options that are not given are set by the solver.",
        without=[field.name for field in fields(SolverOptions)],
    )
    RunGroup = optional(RunOptions)
    FlowGroup = optional(FlowOptions, otherwise=DEFAULTS)
    FlowToleranceGroup = optional(FlowOptions, otherwise=DEFAULTS, without=("steps", "grid"))


@dataclass(frozen=True)
class LoadingOptions:
    """How a model is loaded.

    Attributes:
        config: For a .pth: its preset (ve/cifar10_ncsnpp_continuous), or a .json, .py or .txt file.
        raw: For a .pth: load the raw weights instead of their moving average.
    """

    config: Annotated[str | None, NO_DEFAULT] = None
    raw: Flag = False
    threads: Threads = None

    def load(self, name: str) -> ScoreFunction:
        """Set memory and threads of the process, and load the model ``name``."""
        from scoresde_fast.checkpoints.python_models import load_model
        from scoresde_fast.devices import keep_freed_memory

        keep_freed_memory()
        use_threads(self.threads)
        return load_model(name, config=self.config, ema=not self.raw)


@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """The options of a sampler."""

    solver: SolverGroup = field(default_factory=SolverGroup)
    tolerance: ToleranceGroup = field(default_factory=ToleranceGroup)
    computing: RunGroup = field(default_factory=RunGroup)
    network: NetworkInputOptions = field(default_factory=NetworkInputOptions)
    loading: LoadingOptions = field(default_factory=LoadingOptions)

    @property
    def device(self) -> str:
        """Device of this process."""
        return process_device(self.computing.device)

    def options(self) -> dict[str, Any]:
        """Return the given options as keyword arguments of `Sampler`."""
        return given(self.solver, self.tolerance, self.computing) | self.network.options() | {"device": self.device}
