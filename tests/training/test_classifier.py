# SPDX-License-Identifier: Apache-2.0
"""Training of classifiers: learning, resuming, labelled images, augmentation, and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde_fast.checkpoints import load_classifier
from scoresde_fast.cli import main
from scoresde_fast.training import ClassifierRecipe, ClassifierTrainer
from scoresde_fast.training.classifier import accuracy, augmented, labelled_images
from scoresde_fast.training.recipes import LabelledData
from tests.support.chance import binomial_bounds
from tests.support.resumed_runs import assert_resumes_exactly, finish
from tests.support.tiny_recipes import TINY_RECIPE, tiny_recipe

pytest.importorskip("sklearn")


@pytest.mark.statistical
def test_augmentation(run_seed: int) -> None:
    """Shuffling permutes channels, shifts have every direction, and without options images are unchanged."""
    x = torch.rand(512, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    same = augmented(x, LabelledData("digits"), torch.Generator().manual_seed(1))
    assert torch.equal(same, x)
    shuffled = augmented(x, LabelledData("digits", shuffle_channels=0.5), torch.Generator().manual_seed(run_seed))
    assert torch.equal(shuffled.sort(1).values, x.sort(1).values)
    changed = (shuffled != x).flatten(1).any(1).float().mean().item()
    low, high = binomial_bounds(0.5 * 5 / 6, len(x))  # one of six orders changes nothing
    assert low <= changed <= high
    shifts = {
        tuple(int(n) for n in torch.nonzero(image[0] == x[0, 0, 2, 2])[0] - 2)
        for seed in range(40)
        for image in augmented(x[:1], LabelledData("digits", shift=1), torch.Generator().manual_seed(seed))
    }
    assert shifts == {(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)}


def test_learns(tmp_path: Path) -> None:
    """After a short run held-out digits are recognised in low noise, and guessed in the largest noise."""
    trainer = ClassifierTrainer(
        tiny_recipe(
            classifier={"dropout": 0.0},
            data={"shuffle_channels": 0.0, "random_flip": False},
            training={"batch_size": 32, "n_iters": 36, "snapshot_freq": 200, "ema_rate": 0.9},
            optim={"lr": 5e-3},
        ),
        tmp_path,
    )
    losses = finish(trainer)
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])
    images, labels = labelled_images("digits:test", trainer.config.classifier)
    trainer.ema.swap()
    trainer.classifier.eval()
    assert accuracy(trainer.classifier, images, labels, 0.1) > 0.8
    assert accuracy(trainer.classifier, images, labels, trainer.classifier.high) < 0.25


def test_resumed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    """A run that was stopped and resumed ends with the same weights, averages and curve, bit for bit."""
    assert_resumes_exactly(lambda folder: ClassifierTrainer(tiny_recipe(), folder), tmp_path, snapshot=3)
    for change, seed, difference in (({"batch_size": 4}, 0, "batch_size: 8 saved, 4"), ({}, 1, "seed: 0 saved, 1")):
        with pytest.raises(ValueError, match=f"{difference} requested"):
            ClassifierTrainer(tiny_recipe(training=change), tmp_path / "whole", seed=seed)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A classifier's JSON recipe is recognised; --data replaces its data and removes the held-out images."""
    file = tmp_path / "mine.json"
    sections = {**TINY_RECIPE, "data": {**TINY_RECIPE["data"], "held_out": "digits:test"}}
    file.write_text(json.dumps(sections))
    assert main(["train", str(file), "--out", str(tmp_path / "run"), "--half"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    record = json.loads((folder / "recipe.json").read_text())
    assert (record["seed"], record["steps"], len(record["loss"])) == (0, 7, 3)
    assert ClassifierRecipe.from_dict(record["recipe"]) == ClassifierRecipe.from_dict(sections)
    classifier = load_classifier(folder)
    held_out = labelled_images("digits:test", classifier.config)
    assert record["held_out_accuracy"] == [
        [noise, accuracy(classifier, *held_out, noise)] for noise, _ in record["held_out_accuracy"]
    ]
    np.savez(tmp_path / "bare.npz", arr_0=np.zeros((2, 16, 16, 3), np.uint8))
    arguments = ["train", str(file), "--out", str(tmp_path / "other"), "--data"]
    assert main([*arguments, str(tmp_path / "bare.npz")]) == 2
    assert "bare.npz has no labels, which a classifier needs" in capsys.readouterr().err
    assert main([*arguments, "digits@8"]) == 2
    assert "images of digits@8 are 8x8" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert main([*arguments, "digits:train"]) == 0
    assert "held_out_accuracy" not in json.loads((tmp_path / "other" / "model" / "recipe.json").read_text())


def test_folders_of_classes(tmp_path: Path) -> None:
    """Images in one folder per class are labelled by the index of the folder."""
    for number, name in enumerate(("cats", "dogs")):
        (tmp_path / name).mkdir()
        for index in range(2):
            Image.new("RGB", (20, 18), (100 * number, index, 0)).save(tmp_path / name / f"{index}.png")
    images, labels = labelled_images(f"{tmp_path}@16", tiny_recipe().classifier)
    assert labels.tolist() == [0, 0, 1, 1] and images[:, :2, 0, 0].tolist() == [[0, 0], [0, 1], [100, 0], [100, 1]]


def test_more_labels_than_classes() -> None:
    """A data set with more labels than classes is refused."""
    config = tiny_recipe(classifier={"classes": ["zero", "one"]}).classifier
    with pytest.raises(ValueError, match=r"digits has labels up to 9, but classifier\.classes names 2"):
        labelled_images("digits", config)
