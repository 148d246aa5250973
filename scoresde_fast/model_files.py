# SPDX-License-Identifier: Apache-2.0
"""Files beside a model's weights with what was computed for it, such as `tuned.json`; they name the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scoresde_fast import __version__
from scoresde_fast.errors import shown
from scoresde_fast.files import user_path, write_json
from scoresde_fast.model import ScoreFunction, describe_model

VERSION, MODEL = "version", "model"
"""Keys of the version of this package and of the model's description."""


def named_file(solver: str, model: ScoreFunction, file_name: str, command: str) -> Path:
    """Return the file of a solver's name: that in the model's folder, or FILE of "NAME:FILE".

    Raises:
        ValueError: there is no FILE, and the model was not loaded from a folder.
    """
    name, _, file = solver.partition(":")
    if file:
        return user_path(file)
    if model.folder is None:
        raise ValueError(
            f"solver is {name!r}, but the model was not loaded from a saved folder: name the file of {command}, as in "
            f"'{name}:{file_name}'"
        )
    return model.folder / file_name


def write_model_file(path: Path, model: ScoreFunction, content: Mapping[str, Any]) -> None:
    """Write a JSON file about a model."""
    write_json(path, {VERSION: __version__, MODEL: describe_model(model), **content}, indent=1)


def read_model_file(path: Path, model: ScoreFunction, command: str) -> dict[str, Any]:
    """Return the content of a file that ``command`` wrote for this model.

    Raises:
        ValueError: it does not exist, is not such a file, or is that of another model or of another version of this
            package.
    """
    remedy = f"run {command} again"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: run {command} first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, described = content[VERSION], dict(content[MODEL])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is not a file of {command}, or is damaged: {remedy}") from error
    if version != __version__:
        raise ValueError(f"{path} is of version {shown(version)}, but this is {__version__}: {remedy}")
    own = json.loads(json.dumps(describe_model(model)))
    if different := differences(described, own):
        raise ValueError(f"{path} is of another model, which differs in {', '.join(different)}: {remedy}")
    return {name: value for name, value in content.items() if name not in (VERSION, MODEL)}


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Return the names of the values in which two JSON values differ, such as "config.model.nf"."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return [] if one == other else [name]
    names = sorted({*one, *other})
    return [each for key in names for each in differences(one.get(key), other.get(key), f"{name}.{key}".lstrip("."))]
