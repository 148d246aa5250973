# SPDX-License-Identifier: Apache-2.0
"""``sample --class``: the class of each seed in any set, and one-line error messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scoresde_fast as sf
from scoresde_fast.classifier import Classifier
from scoresde_fast.cli import main
from scoresde_fast.generate.pixels import to_pixels
from tests.support.tiny_models import FAST, MODEL, OPTIONS, read, replace_digits, saved_classifier


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sf.ScoreModel:
    """A small network in place of MODEL, and a temporary working folder."""
    monkeypatch.chdir(tmp_path)
    return replace_digits(monkeypatch)


def images_by_seed(out: str) -> dict[int, bytes]:
    return {int(path.stem): path.read_bytes() for path in Path(out).glob("*/*.png")}


def command(classifier: str) -> list[str]:
    return ["sample", MODEL, "--classifier", classifier, "--class-scale", "2", "--strict", "--batch-size", "6", *FAST]


def test_seeds_have_their_classes(model: sf.ScoreModel) -> None:
    """Seed s has the class at index s mod n, given by index or name; the images equal those of the library."""
    folder = saved_classifier(Path("classifier"))
    assert main([*command(folder), "--class", "3,one,7", "--seeds", "0-5", "--out", "three"]) == 0
    assert main([*command(folder), "--class", "one", "--seeds", "0-5", "--out", "ones"]) == 0
    three, ones = images_by_seed("three"), images_by_seed("ones")
    assert [ones[seed] == three[seed] for seed in range(6)] == [seed % 3 == 1 for seed in range(6)]
    wanted = sf.sample(
        model, range(3), classes=["three", "one", 2], classifier=sf.load_classifier(folder), class_scale=2.0,
        strict=True, batch_size=6, **OPTIONS,
    )  # fmt: skip
    written = np.stack([read(Path(f"three/000/00000{seed}.png")) for seed in range(3)])
    assert np.array_equal(written, to_pixels(wanted, "floor"))
    condition = json.loads(Path("three/samples.json").read_text())["configuration"]["sampler"]["condition"]
    assert condition[0].items() >= {"classes": [3, 1, 2], "seeds": "mod 3", "scale": 2.0}.items()
    condition = json.loads(Path("ones/samples.json").read_text())["configuration"]["sampler"]["condition"]
    assert condition[0].items() >= {"classes": [1], "seeds": None}.items()


def test_sets_of_classes(model: sf.ScoreModel, capsys: pytest.CaptureFixture[str]) -> None:
    """A set that grew equals one written in shards; it can be verified and resumed, and refuses other classes."""
    sample = [*command(saved_classifier(Path("classifier"))), "--class", "three,1,2"]
    for out, rest in (("grown", ["0-3"]), ("grown", ["0-17"]), ("shared", ["0-17", "--shard", "2/2"])):
        assert main([*sample, "--out", out, "--seeds", *rest]) == 0
    assert main([*sample, "--out", "shared", "--seeds", "0-17", "--shard", "1/2"]) == 0
    grown = images_by_seed("grown")
    assert grown == images_by_seed("shared") and len(grown) == 18
    assert main(["verify", "grown"]) == 0
    capsys.readouterr()
    assert main([*sample[:-1], "three,1", "--seeds", "0-3", "--out", "grown"]) == 2
    assert "sampler.condition" in capsys.readouterr().err
    Path("grown/000/000004.png").unlink()
    assert main(["verify", "grown", "--repair", "--model", MODEL]) == 2
    assert "the classifier of grown is not embedded; give it with --classifier" in capsys.readouterr().err
    repair = ["verify", "grown", "--repair", "--model", MODEL, "--batch-size", "6"]
    assert main([*repair, "--classifier", "classifier"]) == 0
    assert images_by_seed("grown") == grown
    Path("grown/000/000004.png").unlink()
    assert main([*sample, "--seeds", "0-17", "--out", "grown"]) == 0
    assert images_by_seed("grown") == grown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "tree"], "unknown class 'tree' - did you mean 'three'?"),
        (["--class", "4"], "unknown class '4'"),
        (["--class", "3,"], "unknown class ''"),
        (["--class", "3", "--class-scale", "0"], "scale is 0.0"),
        (["--class", "3", "--classifier", "gone/away"], "the classifier's folder 'gone/away' does not exist"),
        (["--class", "3", "--classifier", "digits-classifyer"], "unknown classifier 'digits-classifyer'"),
        (["--class", "3", "--classifier", MODEL], "a classifier is needed"),
    ],
)
def test_class_mistakes(model: sf.ScoreModel, options: list[str], message: str, capsys: Any) -> None:
    """A mistake gives one line on stderr and exit code 2; nothing is written."""
    given = options if "--classifier" in options else [*options, "--classifier", saved_classifier(Path("classifier"))]
    assert main(["sample", MODEL, *given, *FAST]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not Path("samples").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"high": 2.0}, "was trained for noise from 0.01 to 2, but the noise of the model's SDE 'vpsde' reaches"),
        (
            {"image_shape": (3, 8, 8)},
            "the classifier takes images of shape (3, 8, 8), but the model's have (3, 16, 16)",
        ),
    ],
    ids=["noise", "shape"],
)
def test_classifiers_of_other_models(model: sf.ScoreModel, options: dict[str, Any], message: str, capsys: Any) -> None:
    """A classifier for less noise or for other images is refused."""
    folder = saved_classifier(Path("classifier"), **options)
    assert main(["sample", MODEL, "--class", "one", "--classifier", folder, *FAST]) == 2
    assert message in capsys.readouterr().err


def test_default_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Embedded models of digits have a default classifier; other models need --classifier, which needs --class."""
    monkeypatch.chdir(tmp_path)
    loaded: list[str] = []

    def load_classifier(name: str) -> Classifier:
        loaded.append(name)
        raise ValueError("stop here")

    monkeypatch.setattr("scoresde_fast.checkpoints.load_classifier", load_classifier)
    assert main(["sample", MODEL, "--class", "3"]) == 2 and loaded == ["digits-classifier"]
    sf.load(MODEL).save_pretrained("digits-mine")
    capsys.readouterr()
    assert main(["sample", "./digits-mine", "--class", "3"]) == 2
    assert "needs a classifier of the images of ./digits-mine; give --classifier FOLDER" in capsys.readouterr().err
    for option in (["--classifier", "digits-classifier"], ["--class-scale", "2"]):
        assert main(["sample", MODEL, *option]) == 2
        assert "need --class: give the class too" in capsys.readouterr().err
    assert loaded == ["digits-classifier"]
