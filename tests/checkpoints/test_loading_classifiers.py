# SPDX-License-Identifier: Apache-2.0
"""Saved and embedded classifiers: round trips, kills while saving, and refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scoresde_fast.checkpoints import embedded_classifiers, embedded_names, load, load_classifier, save, save_classifier
from scoresde_fast.checkpoints.loading import EMBEDDED
from scoresde_fast.classifier import Classifier
from scoresde_fast.model import create
from scoresde_fast.training import ClassifierRecipe, load_classifier_recipe, load_recipe
from scoresde_fast.training.classifier import accuracy, labelled_images
from scoresde_fast.training.recipes import classifier_recipe_names, recipe_names
from tests.support.tiny_recipes import tiny_classifier, tiny_recipe

pytest.importorskip("sklearn")

NAME = "digits-classifier"


def test_round_trip(tmp_path: Path) -> None:
    """Saved weights are restored, in the saved precision; a folder with another configuration is not overwritten."""
    classifier = tiny_classifier()
    save_classifier(classifier, tmp_path)
    again = load_classifier(tmp_path)
    assert again.config == classifier.config and not again.training
    torch.testing.assert_close(again.state_dict(), classifier.state_dict(), rtol=0, atol=0)
    save_classifier(classifier, tmp_path, torch.float16)
    torch.testing.assert_close(
        load_classifier(tmp_path).network.head.weight, classifier.network.head.weight.half().float()
    )
    other = Classifier(tiny_recipe(classifier={"data_std": 0.7}).classifier)
    with pytest.raises(ValueError, match=r"another configuration: classifier\.data_std is 0\.5 there and 0\.7 here"):
        save_classifier(other, tmp_path)


def test_classifier_survives_kill_while_saving(tmp_path: Path) -> None:
    """After kill -9 while saving, the folder still loads."""
    code = (
        "import sys; from pathlib import Path; from scoresde_fast.checkpoints import *;"
        "classifier = load_classifier(sys.argv[1]); print('ready', flush=True)\n"
        "while True: save_classifier(classifier, sys.argv[1])"
    )
    classifier = tiny_classifier()
    save_classifier(classifier, tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    while (tmp_path / "model.safetensors").stat().st_mtime_ns == before:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    torch.testing.assert_close(load_classifier(tmp_path).state_dict(), classifier.state_dict(), rtol=0, atol=0)


def test_each_loader_refuses_the_other_kind(tmp_path: Path) -> None:
    """Each loader refuses the other kind of model and suggests the nearest name; saving refuses the other's folder."""
    with pytest.raises(ValueError, match=rf"^'{NAME}' is a classifier, .* use load_classifier\('{NAME}'\)"):
        load(NAME)
    with pytest.raises(ValueError, match=f"^'digits-vp' is a score model, but a classifier is needed; give '{NAME}'"):
        load_classifier("digits-vp")
    with pytest.raises(ValueError, match=f"unknown classifier 'digits-clasifier' - did you mean '{NAME}'"):
        load_classifier("digits-clasifier")
    for path, message in ((tmp_path / "gone", "folder .* does not exist"), (tmp_path, "no saved classifier")):
        with pytest.raises(FileNotFoundError, match=message):
            load_classifier(path)
    save_classifier(tiny_classifier(), tmp_path / "classifier")
    model = create(load_recipe("digits-vp"))
    with pytest.raises(ValueError, match="is a classifier"):
        save(model, tmp_path / "classifier")
    save(model, tmp_path / "model")
    with pytest.raises(ValueError, match="is a score model"):
        save_classifier(tiny_classifier(), tmp_path / "model")


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("config.json", lambda raw: raw[:50], r"config\.json': not a JSON file"),
        ("config.json", lambda raw: raw.replace(b'"low": 0', b'"low": 999'), r"low is 999\S* and high is"),
        (
            "config.json",
            lambda raw: raw.replace(b"      16,", b"      32,"),
            "does not fit the config.json .*misshapen",
        ),
        ("model.safetensors", lambda raw: raw[:1000], "truncated or corrupt"),
    ],
    ids=["half a config", "low above high", "another image height", "half the weights"],
)
def test_corrupt_files(tmp_path: Path, file: str, damage: Any, message: str) -> None:
    """A file that is truncated, invalid, or does not fit the other file is refused with a message."""
    save_classifier(tiny_classifier(), tmp_path)
    path = tmp_path / file
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    with pytest.raises(ValueError, match=message):
        load_classifier(tmp_path)


def test_embedded_matches_its_recipe() -> None:
    """The only embedded classifier takes less than 1 MB, and its record is that of its recipe's training."""
    assert embedded_classifiers() == classifier_recipe_names() == [NAME]
    assert NAME not in [*embedded_names(), *recipe_names()]
    folder = EMBEDDED / NAME
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "recipe.json"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000
    trained, record = load_classifier_recipe(NAME), json.loads((folder / "recipe.json").read_text())
    assert ClassifierRecipe.from_dict(record["recipe"]) == trained
    assert (record["seed"], record["steps"]) == (0, trained.training.n_iters) and len(record["loss"]) > 10
    assert load_classifier(NAME).config == trained.classifier


def test_embedded_recognises_held_out_digits() -> None:
    """Recorded accuracies are reproduced to two images; in low noise they are 97%, or 90% with channels rotated."""
    record = json.loads((EMBEDDED / NAME / "recipe.json").read_text())
    classifier = load_classifier(NAME)
    images, labels = labelled_images("digits:test", classifier.config)
    for noise, recorded in record["held_out_accuracy"]:
        assert abs(accuracy(classifier, images, labels, noise) - recorded) <= 2 / len(images), noise
    assert all(recorded >= 0.97 for noise, recorded in record["held_out_accuracy"] if noise <= 0.3)
    rotated_channels = images.roll(1, 1)
    assert accuracy(classifier, rotated_channels, labels, 0.1) >= 0.9
