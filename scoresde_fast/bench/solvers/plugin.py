# SPDX-License-Identifier: Apache-2.0
"""A user's own solvers: a Python file whose functions join by the decorator `scoresde_fast.solver`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from scoresde_fast.solvers import SOLVERS


def load_solvers(path: Path) -> tuple[str, ...]:
    """Run ``path``, and return the names of the solvers that it registers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no Python file, fails, registers nothing, or takes the name of another solver.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no plugin {str(path)!r}")
    module_name = f"solver_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"the plugin {str(path)!r} is no Python file: give a FILE.py")
    before = dict(SOLVERS)
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        names = tuple(name for name in SOLVERS if SOLVERS[name] is not before.get(name))
        for name in names:
            if name in before and before[name].fill.__module__ != module_name:
                raise ValueError(f"it registers {name!r}, which is another solver's name: choose a new one")
        if not names:
            raise ValueError("it registers no solver: decorate a function with @scoresde_fast.solver(...)")
    except Exception as error:  # whatever the user's code does
        SOLVERS.clear()
        SOLVERS.update(before)
        said = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"the plugin {str(path)!r} cannot be used: {said}") from error
    return names
