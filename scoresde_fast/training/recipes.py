# SPDX-License-Identifier: Apache-2.0
"""Recipes: the configurations that the embedded models were trained with, in the original's form."""

from __future__ import annotations

from pathlib import Path

from scoresde_fast.configs import Config, load_config, preset_names
from scoresde_fast.errors import unknown

FOLDER = Path(__file__).resolve().parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the embedded models' recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_recipe(name: str) -> Config:
    """The configuration to train: a recipe's name, a preset's name, or a JSON file.

    Raises:
        ValueError: nothing has that name, or the file is not a configuration.
    """
    if name in recipe_names():
        return load_config(FOLDER / f"{name}.json")
    if name.endswith(".json") or name in preset_names():
        return load_config(name)
    raise ValueError(unknown("recipe", name, [*recipe_names(), *preset_names()]) + ", or give a .json file")
