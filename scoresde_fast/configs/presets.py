# SPDX-License-Identifier: Apache-2.0
"""The official configurations by their official names, and the one way in for every form a configuration may take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from scoresde_fast.configs.schema import Config
from scoresde_fast.errors import unknown

ConfigLike = str | Path | Mapping[str, Any] | Config


@cache
def _official() -> dict[str, dict[str, Any]]:
    """Options of each preset that differ from the schema's defaults."""
    text = resources.files(__package__).joinpath("official.json").read_text(encoding="utf-8")
    presets: dict[str, dict[str, Any]] = json.loads(text)
    return presets


def preset_names() -> list[str]:
    """Names of the official configurations, as ``ve/cifar10_ncsnpp_continuous`` or ``cld_cifar10``, sorted."""
    return sorted(_official())


def load_config(config: ConfigLike) -> Config:
    """A configuration from a preset's name, a mapping in the original's form, or a JSON file that holds one.

    A mapping or file may also hold the options under a ``config`` key, with notes beside it. Raises ``ValueError`` for
    an unknown preset, a file that is no such JSON, and for anything ``Config.from_dict`` refuses;
    ``FileNotFoundError`` for a missing file.
    """
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        nested = config.get("config")
        return Config.from_dict(nested if isinstance(nested, Mapping) else config)
    if isinstance(config, str):
        if config in _official():
            return Config.from_dict(_official()[config])
        if not config.endswith(".json"):
            raise ValueError(unknown("preset", config, preset_names()) + ", or give the path of a .json file")
    path = Path(config)
    try:
        return load_config(read_json(path))
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error


def read_json(path: Path) -> Mapping[str, Any]:
    """The object that a JSON file holds; raises ``ValueError`` for another file, ``FileNotFoundError`` for none."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration file {str(path)!r}")
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"not a JSON file: {error}") from error
    if not isinstance(options, Mapping):
        raise ValueError("a configuration file must hold one JSON object, with the sections of a configuration")
    return options
