# SPDX-License-Identifier: Apache-2.0
"""Loading of configurations from presets, mappings, JSON files, and the files of the official programs."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from scoresde_fast.configs.flat import flat_sections, parse_flags
from scoresde_fast.configs.options import as_mapping
from scoresde_fast.configs.python_files import read_python
from scoresde_fast.configs.schema import Config
from scoresde_fast.configs.text_files import parse_json, read_text
from scoresde_fast.errors import unknown_message


class ConfigObject(Protocol):
    """A configuration that returns its options by section, such as a ``ConfigDict`` of ml_collections."""

    def to_dict(self) -> dict[str, Any]: ...


ConfigLike = str | Path | Mapping[str, Any] | Namespace | ConfigObject
Parsed = TypeVar("Parsed")
SUFFIXES = (".json", ".py", ".txt")
"""Suffixes of configuration files."""


def preset_names() -> list[str]:
    """Return the sorted names of the official configurations, such as ``ve/cifar10_ncsnpp_continuous``."""
    return sorted(_presets())


def load_config(config: ConfigLike) -> Config:
    """Load a configuration.

    Args:
        config: one of

            - the name of a preset;
            - a mapping, or an object with ``to_dict()`` such as a ``ConfigDict`` of ml_collections: with sections, as
              in score_sde, or flat, as in CLD-SGM. It may also have other keys, such as notes, if its key ``config``
              contains the configuration;
            - a JSON file with such a mapping;
            - a ``.py`` file of score_sde, which is read and not run;
            - a ``.txt`` file of CLD-SGM, or several separated by commas, of which the later ones have precedence.

    Raises:
        ValueError: the preset is unknown, the file cannot be read as its suffix says, or an option is invalid.
        FileNotFoundError: the file does not exist.
    """
    if isinstance(config, Config):
        return config
    config = vars(config) if isinstance(config, Namespace) else as_mapping(config)
    if isinstance(config, Mapping):
        nested = as_mapping(config.get("config"))
        options = nested if isinstance(nested, Mapping) else config
        return Config.from_dict(flat_sections(options) if isinstance(options.get("sde"), str) else options)
    if not isinstance(config, str | Path):
        raise ValueError(
            f"config is of type {type(config).__name__}; it must be a preset's name, a file, a mapping or a ConfigDict"
        )
    if isinstance(config, str) and config in _presets():
        return Config.from_dict(_presets()[config])
    if isinstance(config, str) and not is_config_file(config):
        message = unknown_message("preset", config, preset_names())
        raise ValueError(f"{message}, or give the path of a .json, .py or .txt file")
    path = Path(config)
    if path.suffix == ".py":
        return _named(path, lambda: Config.from_dict(read_python(path)))
    if path.suffix == ".txt":
        return _named(path, lambda: Config.from_dict(flat_sections(_read_flags(path))))
    return read_json(path, load_config)


def is_config_file(name: str) -> bool:
    """Return whether a name is that of a configuration file, by its suffix."""
    return name.endswith(SUFFIXES)


def read_json(path: Path, parse: Callable[[Mapping[str, Any]], Parsed]) -> Parsed:
    """Return the result of ``parse`` on the object in a JSON file.

    Raises:
        ValueError: the file is not JSON, is too large or nested too deeply, does not contain an object, or ``parse``
            raises it. The message names the file.
        FileNotFoundError: the file does not exist.
    """

    def parsed() -> Parsed:
        options = parse_json(read_text(path))
        if not isinstance(options, Mapping):
            raise ValueError("a configuration file must contain one JSON object, with the sections of a configuration")
        return parse(options)

    return _named(path, parsed)


def _read_flags(path: Path) -> dict[str, Any]:
    paths = [path] if path.is_file() else [Path(part.strip()) for part in str(path).split(",")]
    return {key: value for each in paths for key, value in parse_flags(read_text(each)).items()}


def _named(path: Path, read: Callable[[], Parsed]) -> Parsed:
    """Return ``read()``; a ``ValueError`` gets the name of the file."""
    try:
        return read()
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error


@cache
def _presets() -> dict[str, dict[str, Any]]:
    """Return the options of each preset that differ from the schema's defaults."""
    presets: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "official.json").read_text("utf-8"))
    return presets
