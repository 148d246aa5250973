# SPDX-License-Identifier: Apache-2.0
"""Noise-conditional classifiers: what they learn, what a kill leaves behind, what is embedded, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde_fast.checkpoints import embedded_classifiers, embedded_names, load, load_classifier, save, save_classifier
from scoresde_fast.checkpoints.loading import EMBEDDED
from scoresde_fast.classifier import Classifier
from scoresde_fast.cli import main
from scoresde_fast.model import create
from scoresde_fast.networks import WideResNet
from scoresde_fast.training import ClassifierRecipe, ClassifierTrainer, load_classifier_recipe, load_recipe
from scoresde_fast.training.classifier import accuracy, augmented, labelled_images
from scoresde_fast.training.classifier_recipe import LabelledData, diffusion
from scoresde_fast.training.recipes import classifier_recipe_names, recipe_names
from tests.support.chance import binomial_bounds

pytest.importorskip("sklearn")

NAME = "digits-classifier"
TINY: dict[str, Any] = {
    "classifier": {
        "image_shape": [3, 16, 16],
        "classes": [str(digit) for digit in range(10)],
        "widths": [8, 16],
        "dropout": 0.1,
    },
    "models": ["digits-ve", "digits-cld"],
    "data": {"dataset": "digits:train", "shift": 1, "shuffle_channels": 0.5, "random_flip": True},
    "training": {"batch_size": 8, "n_iters": 7, "log_freq": 2, "snapshot_freq": 3},
    "optim": {"lr": 2e-3, "warmup": 3},
}


def recipe(**sections: Any) -> ClassifierRecipe:
    """The tiny recipe with other options in some of its sections."""
    changed = {name: {**TINY[name], **options} for name, options in sections.items()}
    return ClassifierRecipe.from_dict({**TINY, **changed})


def finish(trainer: ClassifierTrainer) -> list[float]:
    return [loss for _, loss in trainer.run()]


def tiny() -> Classifier:
    torch.manual_seed(0)
    return Classifier(recipe().classifier)


def lively(network: torch.nn.Module) -> torch.nn.Module:
    """Fresh weights leave out the last convolution of each block; these let everything through."""
    generator = torch.Generator().manual_seed(1)
    for weight in network.parameters():
        weight.data.add_(0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return network


def test_gradient_is_that_of_finite_differences() -> None:
    """In float64 the gradient in the image, by which samples are guided, is the central difference in any direction."""
    network = lively(WideResNet(image_size=(8, 12), in_channels=2, classes=3, widths=(8, 16)).double())
    generator = torch.Generator().manual_seed(0)
    x, direction = torch.randn(2, 4, 2, 8, 12, generator=generator, dtype=torch.float64)
    noise = torch.tensor([1e-3, 0.1, 3.0, 200.0], dtype=torch.float64)
    x = x * (1 + noise)[:, None, None, None]

    def log_p(x: torch.Tensor) -> torch.Tensor:
        return network(x, noise).log_softmax(1)[:, 1]

    x.requires_grad_()
    gradient = torch.autograd.grad(log_p(x).sum(), x)[0]
    with torch.no_grad():
        step = 1e-5 * direction
        difference = (log_p(x + step) - log_p(x - step)) / 2e-5
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), difference, rtol=1e-6, atol=1e-9)


def test_noise_level_counts_and_examples_do_not_mix() -> None:
    """The same image at another noise level has other probabilities; each image is judged by itself; they sum to 1."""
    classifier = lively(tiny()).double().eval()
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)
    with torch.no_grad():
        log_p = classifier(x, noise)
        torch.testing.assert_close(log_p.exp().sum(1), torch.ones(3, dtype=torch.float64))
        alone = torch.cat([classifier(x[i : i + 1], noise[i : i + 1]) for i in range(3)])
        # Sums may have another order in another batch: 450 roundings of values of 10.
        torch.testing.assert_close(log_p, alone, rtol=0, atol=1e-12)
        assert (classifier(x, noise.flip(0)) - log_p)[[0, 2]].abs().amax(1).min() > 1e-3


def test_noise_is_that_of_the_models() -> None:
    """A step's deviations are those of its SDEs on images in [-1, 1]: VE's twice its own, whose data are in [0, 1]."""
    trained = load_classifier_recipe(NAME)
    assert set(trained.models) == {"digits-ve", "digits-vp", "digits-subvp", "digits-cld"} <= set(recipe_names())
    ve, vp = load_recipe("digits-ve").model, diffusion("digits-vp")
    ends = np.array([0.0, 1.0])
    assert diffusion("digits-ve").noise(ends)[1] == pytest.approx(2 * ve.sigma_max)
    scale, std = vp.sde.marginal(np.array([vp.eps, 1.0]))
    np.testing.assert_allclose(vp.noise(ends), std / scale)
    seen = [diffusion(name).noise(ends) for name in trained.models]
    assert trained.classifier.low == np.min(seen) < 1e-3
    assert trained.classifier.high == np.max(seen) > 100


@pytest.mark.statistical
def test_augmentation_keeps_what_it_should(run_seed: int) -> None:
    """Shuffled channels are the same channels, a shift moves all of an image, and no option leaves all as it was."""
    x = torch.rand(512, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    same = augmented(x, LabelledData("digits"), torch.Generator().manual_seed(1))
    assert torch.equal(same, x)
    shuffled = augmented(x, LabelledData("digits", shuffle_channels=0.5), torch.Generator().manual_seed(run_seed))
    assert torch.equal(shuffled.sort(1).values, x.sort(1).values)
    moved = (shuffled != x).flatten(1).any(1).float().mean().item()
    low, high = binomial_bounds(0.5 * 5 / 6, len(x))  # a sixth of the shuffled half keeps its order
    assert low <= moved <= high
    shifts = {
        tuple(int(n) for n in torch.nonzero(image[0] == x[0, 0, 2, 2])[0] - 2)
        for seed in range(40)
        for image in augmented(x[:1], LabelledData("digits", shift=1), torch.Generator().manual_seed(seed))
    }
    assert shifts == {(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)}


def test_learns(tmp_path: Path) -> None:
    """A short run recognises held-out digits in little noise, and guesses where all is noise."""
    trainer = ClassifierTrainer(
        recipe(
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


def test_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    """Stopped after a snapshot and gone on with, a run ends with the same weights, averages and curve, bit for bit."""
    whole = ClassifierTrainer(recipe(), tmp_path / "whole")
    losses = finish(whole)
    first = ClassifierTrainer(recipe(), tmp_path / "parts")
    for step, _ in first.run():
        if step == 5:  # two steps after the snapshot: they are lost, and made again
            break
    second = ClassifierTrainer(recipe(), tmp_path / "parts")
    assert second.step == 3
    assert finish(second) == losses[3:]
    assert second.curve == whole.curve
    for name, weight in whole.classifier.state_dict().items():
        assert torch.equal(weight, second.classifier.state_dict()[name]), name
    assert all(torch.equal(a, b) for a, b in zip(whole.ema.shadow, second.ema.shadow, strict=True))
    for change, named in (({"batch_size": 4}, "config"), ({}, "seed")):
        with pytest.raises(ValueError, match=f"another {named}"):
            ClassifierTrainer(recipe(training=change), tmp_path / "whole", seed=int(named == "seed"))


def test_saved_and_loaded(tmp_path: Path) -> None:
    """What is loaded is what was saved, in its own precision; another configuration is not overwritten."""
    classifier = tiny()
    save_classifier(classifier, tmp_path)
    again = load_classifier(tmp_path)
    assert again.config == classifier.config and not again.training
    torch.testing.assert_close(again.state_dict(), classifier.state_dict(), rtol=0, atol=0)
    save_classifier(classifier, tmp_path, torch.float16)
    torch.testing.assert_close(
        load_classifier(tmp_path).network.head.weight, classifier.network.head.weight.half().float()
    )
    other = Classifier(recipe(classifier={"data_std": 0.7}).classifier)
    with pytest.raises(ValueError, match=r"another configuration: classifier\.data_std is 0\.5 there and 0\.7 here"):
        save_classifier(other, tmp_path)


def test_kill_while_saving_leaves_a_whole_classifier(tmp_path: Path) -> None:
    """kill -9 amid endless saving: what is in the folder loads."""
    code = (
        "import sys; from pathlib import Path; from scoresde_fast.checkpoints import *;"
        "classifier = load_classifier(sys.argv[1]); print('ready', flush=True)\n"
        "while True: save_classifier(classifier, sys.argv[1])"
    )
    classifier = tiny()
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


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A JSON recipe is known for a classifier's by its form; --data takes the place of its data, held-out ones too."""
    file = tmp_path / "mine.json"
    sections = {**TINY, "data": {**TINY["data"], "held_out": "digits:test"}}
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
    assert "bare.npz has no labels, and a classifier learns from them" in capsys.readouterr().err
    assert main([*arguments, "digits@8"]) == 2
    assert "images of digits@8 are 8x8" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert main([*arguments, "digits:train"]) == 0
    assert "held_out_accuracy" not in json.loads((tmp_path / "other" / "model" / "recipe.json").read_text())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": {}}, "unknown section of a classifier's recipe 'model'"),
        ({"models": []}, r"models is \[\]; it must list"),
        ({"models": ["digits-vx"]}, "unknown recipe 'digits-vx' - did you mean 'digits-v"),
        ({"models": ["cld-toy"]}, "a model of points; classifiers are of images"),
        ({"models": [NAME]}, "is the recipe of a classifier, and that of a score model is needed"),
        ({"classifier": {"classes": ["a", "b"]}}, r"must say classifier\.image_shape"),
        ({"classifier": 3}, "section 'classifier' of a configuration must hold options by name, but is 3"),
        ({"classifier": {**TINY["classifier"], "width": 3}}, "did you mean 'widths'"),
        ({"classifier": {**TINY["classifier"], "classes": ["a", "a"]}}, "at least two different names are needed"),
        ({"classifier": {**TINY["classifier"], "widths": [8, 8, 8, 8, 8, 8]}}, "multiples of 32"),
        ({"classifier": {**TINY["classifier"], "widths": [11]}}, "widths has 11, which cannot be normalised"),
        ({"data": {"dataset": "digits", "shuffle_channels": 2.0}}, r"data\.shuffle_channels is 2\.0; it is a share"),
        ({"training": {"n_iters": 0}}, r"training\.n_iters is 0; it must be at least 1"),
        ({"optim": {"lr": -1.0}}, r"optim\.lr must be greater than 0"),
    ],
)
def test_recipes_that_are_none(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    """Each mistake in a recipe is named with the file, the value and what is allowed."""
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({**TINY, **change}))
    with pytest.raises(ValueError, match=rf"mine\.json'?: .*{says}"):
        load_classifier_recipe(str(file))


def test_folders_of_classes(tmp_path: Path) -> None:
    """Images in one folder a class are learnt from as a data set's are; a label is the number of the folder."""
    for number, name in enumerate(("cats", "dogs")):
        (tmp_path / name).mkdir()
        for index in range(2):
            Image.new("RGB", (20, 18), (100 * number, index, 0)).save(tmp_path / name / f"{index}.png")
    images, labels = labelled_images(f"{tmp_path}@16", recipe().classifier)
    assert labels.tolist() == [0, 0, 1, 1] and images[:, :2, 0, 0].tolist() == [[0, 0], [0, 1], [100, 0], [100, 1]]


def test_labels_without_a_name() -> None:
    """More labels than classes are refused before anything is trained."""
    config = recipe(classifier={"classes": ["zero", "one"]}).classifier
    with pytest.raises(ValueError, match=r"digits has labels up to 9, and classifier\.classes names 2"):
        labelled_images("digits", config)


def test_each_loader_knows_its_own(tmp_path: Path) -> None:
    """A score model is no classifier, and the other way round; an unknown name gets the nearest one."""
    with pytest.raises(ValueError, match=rf"^'{NAME}' is a classifier, .*: load_classifier\('{NAME}'\)"):
        load(NAME)
    with pytest.raises(ValueError, match=f"^'digits-vp' is a score model, but a classifier is needed: give '{NAME}'"):
        load_classifier("digits-vp")
    with pytest.raises(ValueError, match=f"unknown classifier 'digits-clasifier' - did you mean '{NAME}'"):
        load_classifier("digits-clasifier")
    for wrong, nothing in ((tmp_path / "gone", "no classifier's folder"), (tmp_path, "no saved classifier")):
        with pytest.raises(FileNotFoundError, match=nothing):
            load_classifier(wrong)
    save_classifier(tiny(), tmp_path / "classifier")
    model = create(load_recipe("digits-vp"))
    with pytest.raises(ValueError, match="is a classifier"):
        save(model, tmp_path / "classifier")
    save(model, tmp_path / "model")
    with pytest.raises(ValueError, match="is a score model"):
        save_classifier(tiny(), tmp_path / "model")


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("config.json", lambda raw: raw[:50], r"config\.json': not a JSON file"),
        ("config.json", lambda raw: raw.replace(b'"low": 0', b'"low": 999'), r"low is 999\S* and high is"),
        (
            "config.json",
            lambda raw: raw.replace(b"      16,", b"      32,"),
            "does not fit the config.json .*misshapen",
        ),
        ("model.safetensors", lambda raw: raw[:1000], "truncated or damaged"),
    ],
    ids=["half a config", "noise", "another size", "half the weights"],
)
def test_damaged_files(tmp_path: Path, file: str, damage: Any, says: str) -> None:
    """A file that is cut short or does not fit the other is refused with its name."""
    save_classifier(tiny(), tmp_path)
    path = tmp_path / file
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    with pytest.raises(ValueError, match=says):
        load_classifier(tmp_path)


def test_embedded_is_what_its_recipe_says() -> None:
    """One classifier is embedded, of at most 1 MB in half precision, trained to the last step of its recipe."""
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
    """Its recorded accuracy is found again to two images in 364, at least 97 % in little noise, whatever the tint."""
    record = json.loads((EMBEDDED / NAME / "recipe.json").read_text())
    classifier = load_classifier(NAME)
    images, labels = labelled_images("digits:test", classifier.config)
    for noise, recorded in record["held_out_accuracy"]:
        assert abs(accuracy(classifier, images, labels, noise) - recorded) <= 2 / len(images), noise
    assert all(recorded >= 0.97 for noise, recorded in record["held_out_accuracy"] if noise <= 0.3)
    tinted_as_another = images.roll(1, 1)
    assert accuracy(classifier, tinted_as_another, labels, 0.1) >= 0.9
