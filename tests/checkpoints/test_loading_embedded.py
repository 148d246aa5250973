# SPDX-License-Identifier: Apache-2.0
"""The embedded models: size, record, agreement with their recipes, and generated digits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import scoresde_fast as sf
from scoresde_fast.checkpoints.loading import EMBEDDED, embedded_names
from scoresde_fast.training import load_recipe, recipe_names

pytest.importorskip("sklearn")

from scoresde_fast.evaluation import Recogniser


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


MODELS = [name for name in recipe_names() if name.startswith("digits-")]


def test_every_recipe_has_its_model() -> None:
    """Every embedded model has a recipe; the toys, which train in two minutes, are only recipes."""
    assert embedded_names() == MODELS == ["digits-cld", "digits-subvp", "digits-ve", "digits-vp"]


@pytest.mark.parametrize("name", [*MODELS, "digits-features"])
def test_small_and_recorded(name: str) -> None:
    """Each model takes at most 4 MB, and its record has the seed and the loss curve."""
    assert size(EMBEDDED / name) <= 4_000_000
    record = json.loads((EMBEDDED / name / "recipe.json").read_text())
    assert record["seed"] == 0 and len(record["loss"]) > 10


@pytest.mark.parametrize("name", MODELS)
def test_matches_its_recipe(name: str) -> None:
    """The configuration is that of the recipe, and training reached the last step."""
    assert sf.load(name).config == load_recipe(name)
    record = json.loads((EMBEDDED / name / "recipe.json").read_text())
    assert record["steps"] == load_recipe(name).training.n_iters


@pytest.mark.statistical
@pytest.mark.parametrize("name", MODELS)
def test_generates_digits(name: str, run_seed: int) -> None:
    """Short runs give digits of several classes in their tints; `benchmarks.studies.embedded` uses more samples.

    Of 2000 samples (README), all are recognised and at least 95% have their tint. By the binomial distribution, the
    first assertion then fails with probability 1e-6, and the second, with fewer than three classes, with 2e-7.
    """
    images = sf.sample(sf.load(name), seeds=range(12), steps=60, run_seed=run_seed)
    report = Recogniser().report(images)
    assert report.recognised >= 10 / 12 and report.tint_matches >= 6 / 12
    assert sum(share > 0 for share in report.class_shares) >= 3
