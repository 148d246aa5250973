# SPDX-License-Identifier: Apache-2.0
"""Recipes: what the embedded models were trained with; score models' are configurations in the original's form."""

from __future__ import annotations

import json
from pathlib import Path

from scoresde_fast.configs import Config, load_config, preset_names
from scoresde_fast.errors import unknown

FOLDER = Path(__file__).resolve().parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the score models' recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json") if not _is_classifier(path))


def classifier_recipe_names() -> list[str]:
    """Names of the classifiers' recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json") if _is_classifier(path))


def is_classifier_recipe(name: str) -> bool:
    """Whether ``name`` is that of a classifier's recipe, or a JSON file with one: it has a section ``classifier``."""
    return name in classifier_recipe_names() or (name.endswith(".json") and _is_classifier(Path(name)))


def load_recipe(name: str) -> Config:
    """The configuration of the score model to train: a recipe's name, a preset's name, or a JSON file.

    Raises:
        ValueError: nothing has that name, or the file is not a configuration.
    """
    if name in recipe_names():
        return load_config(FOLDER / f"{name}.json")
    if is_classifier_recipe(name):
        raise ValueError(f"{name!r} is the recipe of a classifier, and that of a score model is needed")
    if name.endswith(".json") or name in preset_names():
        return load_config(name)
    known = [*recipe_names(), *classifier_recipe_names(), *preset_names()]
    raise ValueError(unknown("recipe", name, known) + ", or give a .json file")


def _is_classifier(path: Path) -> bool:
    """By its form; a file that is no JSON has none, and is refused where it is read."""
    try:
        return "classifier" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError):
        return False
