# SPDX-License-Identifier: Apache-2.0
"""Options that come as keywords: sorted into the dataclasses that they belong to, and shown by ``help``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from inspect import Parameter, signature
from typing import Any, TypeVar

from scoresde_fast.errors import RENAMED, unknown
from scoresde_fast.run_options import RunOptions

Function = TypeVar("Function", bound=Callable[..., Any])


def names(*groups: type) -> list[str]:
    """The fields of dataclasses, each name once."""
    return list(dict.fromkeys(field.name for group in groups for field in fields(group)))


def split_options(options: Mapping[str, Any], known: Iterable[str]) -> tuple[dict[str, Any], RunOptions]:
    """Those of the ``known`` names that are not None, and those of the run.

    Raises:
        TypeError: there is no option of a name.
        ValueError: an option of the run is out of its range.
    """
    of_run = names(RunOptions)
    known = [*known, *of_run]
    for name in options:
        if RENAMED.get(name) in known:
            raise TypeError(f"option {name!r} is now called {RENAMED[name]!r}")
        if name not in known:
            raise TypeError(unknown("option", name, known))
    given = {name: value for name, value in options.items() if value is not None}
    run = RunOptions(**{name: value for name, value in given.items() if name in of_run})
    return {name: value for name, value in given.items() if name not in of_run}, run


def accepting_options(*groups: type) -> Callable[[Function], Function]:
    """Let ``help`` and completion show the fields of dataclasses that the function takes as ``**options``.

    None stands for the default of one that the model, or the solver, may decide; `RunOptions` have their own.
    """

    def shown(function: Function) -> Function:
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

    return shown
