# SPDX-License-Identifier: Apache-2.0
"""Models of one's own by name: ``file.py:name`` and ``package.module:name``.

`load_model` takes these names and those of `scoresde_fast.checkpoints.load`.  The code of the file or module runs;
`load` itself never runs code.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from scoresde_fast.checkpoints.loading import load
from scoresde_fast.configs import ConfigLike
from scoresde_fast.errors import unknown_message
from scoresde_fast.model import ScoreFunction

SUFFIX = ".py"
WRAP = "scoresde_fast.wrap(network, schedule, prediction=..., shape=...)"
MACHINERY = ("<", str(Path(__file__).resolve().parents[1]), str(Path(importlib.__file__).parent))
"""Prefixes of the files of this package and of imports."""
LIBRARIES = tuple(map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")))
"""Folders of Python and of installed packages."""


def load_model(name: str, config: ConfigLike | None = None, ema: bool = True) -> ScoreFunction:
    """Return the model that ``name`` names, in evaluation mode.

    Args:
        name: ``file.py:name`` or ``package.module:name``, where ``name`` is a model or a function without arguments
            that returns one; otherwise as in `load`.  While the code runs, the folder of the file, or for a module the
            current folder, is on the import path.
        config, ema: as in `load`, for an official checkpoint.

    Raises:
        ValueError: the code cannot be run (the message names the line), or it has no model of this name; or as `load`.
        FileNotFoundError: the file does not exist.
    """
    if not is_python_name(name):
        return load(name, config=config, ema=ema)
    if config is not None or not ema:
        raise ValueError(f"{name!r} is a model in Python, but config and ema are for .pth files: leave them out")
    source, _, attribute = name.rpartition(":")
    if not attribute.isidentifier():  # the whole name is a file
        raise ValueError(f"{name!r} is a Python file: add the name of the model in it, as in {name}:model")
    is_file = source.endswith(SUFFIX)
    if not is_found(name):
        if is_file:
            raise FileNotFoundError(f"the Python file {source!r} does not exist")
        raise ValueError(
            f"{name!r} cannot be loaded: there is no module {source.partition('.')[0]!r} in the current folder or "
            "among the installed packages"
        )
    with _importable(Path(source).resolve().parent if is_file else Path.cwd()):
        module = _running(name, lambda: _run_file(Path(source)) if is_file else importlib.import_module(source))
        return _model(name, module, attribute).eval()


def is_python_name(name: str) -> bool:
    """Return whether ``name`` has the form ``file.py``, ``file.py:name`` or ``package.module:name``."""
    source, _, attribute = name.rpartition(":")
    is_source = source.endswith(SUFFIX) or all(part.isidentifier() for part in source.split("."))
    return name.endswith(SUFFIX) or (attribute.isidentifier() and is_source)


def is_found(name: str) -> bool:
    """Return whether the file or the outermost package of a name in Python exists; no code runs."""
    source = name if name.endswith(SUFFIX) else name.rpartition(":")[0]
    if source.endswith(SUFFIX):
        return Path(source).is_file()
    with _importable(Path.cwd()):
        return find_spec(source.partition(".")[0]) is not None


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Put ``folder`` first on the import path, as Python does for a script."""
    entry = str(folder)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()  # files may be newer than the last import
    try:
        yield
    finally:
        if entry in sys.path:  # the code may have removed it
            sys.path.remove(entry)


def _run_file(path: Path) -> ModuleType:
    """Return the module of a file, under a name that no import and no other file uses."""
    path = path.resolve()
    spec = spec_from_file_location(re.sub(r"\W", "_", str(path)), path)
    assert spec is not None and spec.loader is not None  # the suffix is .py
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and `inspect.getsource` look there
    spec.loader.exec_module(module)
    return module


def _running(name: str, run: Callable[[], Any]) -> Any:
    """Return ``run()``, which runs the user's code; raise ``ValueError`` with the line if it fails."""
    try:
        return run()
    except (Exception, SystemExit) as error:
        reason = next(iter(str(error).splitlines()), "")
        what = f"{type(error).__name__}{_place(error)}" + (f": {reason}" if reason else "")
        raise ValueError(f"{name!r} cannot be loaded: {what}") from error


def _place(error: BaseException) -> str:
    """Return the file and the line at which the user's code failed, or "" if none of it ran."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f" in {error.filename}, line {error.lineno}"
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith(MACHINERY)]
    own = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)]
    return "".join(f" in {frame.filename}, line {frame.lineno}" for frame in (own or frames)[-1:])


def _model(name: str, module: ModuleType, attribute: str) -> ScoreFunction:
    """Return the model that an attribute of a module is or returns."""
    if not hasattr(module, attribute):
        functions = [key for key, value in vars(module).items() if _is_own_function(value, module)]
        models = [key for key, value in vars(module).items() if isinstance(value, ScoreFunction)]
        known = [key for key in (*functions, *models) if not key.startswith("_")]
        where = f"{name!r} cannot be loaded: "
        if not known:
            raise ValueError(f"{where}the code defines no {attribute!r}, nor any other model or function")
        raise ValueError(where + unknown_message("name", attribute, known))
    value = getattr(module, attribute)
    if isinstance(value, ScoreFunction):
        return value
    if isinstance(value, nn.Module):
        raise ValueError(f"{name!r} is a network, {type(value).__name__}: make it a model by {WRAP}")
    if isinstance(value, type) or not callable(value):
        what = f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"
        raise ValueError(f"{name!r} is {what}; name a model, or a function without arguments that returns one")
    if arguments := _required_arguments(value):
        raise ValueError(
            f"{name!r} needs the arguments {', '.join(arguments)}; give them defaults, or name a function without "
            "arguments that returns a model"
        )
    model = _running(name, value)
    if isinstance(model, ScoreFunction):
        return model
    what = f"a network, {type(model).__name__}" if isinstance(model, nn.Module) else f"a {type(model).__name__}"
    raise ValueError(f"{name!r} returns {what}; it must return a model, such as {WRAP}")


def _is_own_function(value: object, module: ModuleType) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__


def _required_arguments(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's arguments that have no default."""
    parameters = inspect.signature(function).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in variadic]
