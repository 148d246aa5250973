# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast eval`` and ``eval stats``: output, files, and one-line error messages."""

from __future__ import annotations

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

import scoresde_fast as sf
from scoresde_fast.checkpoints import save
from scoresde_fast.cli import main
from scoresde_fast.data import digits
from scoresde_fast.evaluation.extractors import load_torch_fidelity
from scoresde_fast.evaluation.metrics import KID_SUBSET_SIZE, MetricSettings
from scoresde_fast.model import weights_sha256
from scoresde_fast.training import load_recipe

pytestmark = pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")

DRAWN = ["digits-vp", "--solver", "ddim", "--steps", "2", "--batch-size", "20", "--threads", "1"]
DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"
QUICK = ["--kid-subsets", "2", "--resamples", "3"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def metrics(path: Path) -> dict[str, float]:
    return {name: metric["value"] for name, metric in json.loads(path.read_text())["metrics"].items()}


def test_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints a line for each metric with its spread, warns on stderr, and writes the settings of the metrics."""
    command = ["eval", "digits:test", "--reference", "digits:train", "--out", str(tmp_path / "result.json"), *QUICK]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("364 images of digits:test against digits:train, by digits-features\n")
    for name in ("FID", "KID", "Inception score", "precision", "recall"):
        assert re.search(rf"^{name} +-?[\d.]+ ± [\d.]+$", printed.out, re.MULTILINE), name
    assert printed.err.count("\n") == 3 and "is too large" in printed.err
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["settings"]["kid_subsets"] == 2 and result["settings"]["kid_subset_size"] == 364
    assert result["reference"]["count"] == 1433 and result["images"]["shape"] == [3, 16, 16]
    assert result["versions"]["torch-fidelity"] and len(result["extractor"]["weights_sha256"]) == 64


@pytest.mark.parametrize("out", ["set", "set.npz", "set.zip"])
def test_a_set_and_its_page(tmp_path: Path, out: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The result and the page of a set of samples say what they evaluated: model, solver, steps and evaluations."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    source = str(tmp_path / out)
    assert main(["sample", *DRAWN, "--seeds", "0-11", "--out", source]) == 0
    capsys.readouterr()
    page, result = tmp_path / "page.html", tmp_path / "result.json"
    files = ["--html", str(page), "--out", str(result)]
    assert main(["eval", source, "--reference", "digits:test", "--metrics", "kid", *QUICK, *files]) == 0
    model = f"ncsnpp on vpsde, weights {weights_sha256(sf.load('digits-vp'))[:12]}"
    sentence = f"ampled from {model}: solver ddim, 2 steps, 2 NFE each"
    assert f"\ns{sentence}\n" in capsys.readouterr().out and f"<p>S{sentence}.</p>" in page.read_text()
    images = json.loads(result.read_text())["images"]
    assert (images["sampler"]["solver"], images["nfe"], images["rounding"]) == ("ddim", 2, "floor")


def test_a_model_and_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model is sampled without writing images; the page has no links or scripts, and embedded pictures."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    monkeypatch.chdir(tmp_path)
    options = ["--seeds", "0-179", "--reference", "digits:test", "--training-set", "digits:train", "--curve", *QUICK]
    assert main(["eval", *DRAWN, *options, "--html", "page.html", "--out", "result.json"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "result.json"]
    assert "180 images of digits-vp, seeds 0-179" in capsys.readouterr().out
    result, page = json.loads(Path("result.json").read_text()), Path("page.html").read_text()
    assert result["images"]["sampler"]["steps"] == 2 and result["images"]["rounding"] == "floor"
    assert [count for count, _ in result["curve"]] == [90, 180]
    assert page.count("data:image/png;base64,") == 1 + 8 * 5 and page.count("<svg") == 1
    assert not re.search(r"https?://|<script|<link", page)
    for name in ("FID", "recall", "Nearest in the training set", "digits:train", "is too large"):
        assert name in page


def test_chosen_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a reference only the Inception score is computed; with --metrics, the named ones."""
    assert main(["eval", "digits:test", *QUICK]) == 0
    assert re.findall(r"^(\w[\w ]+\w) +[\d.]+ ±", capsys.readouterr().out, re.MULTILINE) == ["Inception score"]
    assert main(["eval", "digits:test", "--reference", "digits", "--metrics", "pr", "fid", *QUICK]) == 0
    assert re.findall(r"^(\w+) +[\d.]+ ±", capsys.readouterr().out, re.MULTILINE) == ["FID", "precision", "recall"]


def test_statistics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Merged statistics of parts can replace the images of a reference; without features they allow only FID."""
    first, second = (digits("train")[0][part].permute(0, 2, 3, 1).numpy() for part in (slice(500), slice(500, None)))
    np.savez(tmp_path / "first.npz", arr_0=first)
    np.savez(tmp_path / "second.npz", arr_0=second)
    parts, whole = [str(tmp_path / name) for name in ("a.npz", "second.npz")], str(tmp_path / "whole.npz")
    assert main(["eval", "stats", str(tmp_path / "first.npz"), "--features", "--out", parts[0]]) == 0
    assert main(["eval", "stats", *parts, "--features", "--out", whole]) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"{whole}: 1433 images, 64 features"
    for reference in ("digits:train", whole):
        out = ["--out", str(tmp_path / f"{Path(reference).stem}.json")]
        assert main(["eval", "digits:test", "--reference", reference, *out, *QUICK]) == 0
    ours, theirs = (metrics(tmp_path / f"{name}.json") for name in ("whole", "digits:train"))
    assert ours.pop("fid") == pytest.approx(theirs.pop("fid"), rel=1e-6)
    # KID is a difference of float32 means of kernels of about 600; allow ten rounding errors.
    assert ours.pop("kid") == pytest.approx(theirs.pop("kid"), abs=10 * 6e-8 * 600)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert main(["eval", "stats", "digits:train", "--out", whole]) == 0
    assert main(["eval", "digits:test", "--reference", whole, "--metrics", "kid"]) == 2
    assert "--features" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits:tets"], "unknown split 'tets' - did you mean 'test'"),
        (["digits-pv"], "unknown model or data set 'digits-pv' - did you mean 'digits-vp'"),
        (["nowhere/set.zip"], "no such file or folder:"),
        (["digits-vp", "--seeds", "9-5"], "is reversed"),
        (["digits-vp", "--solver", "dimm"], "unknown solver"),
        (["digits:test", "--metrics", "fid"], "give --reference"),
        (["digits:test", "--extractor", "inception"], "did you mean 'inception-v3-compat'"),
        (["digits:test", "--extractor-weights", "x.pth"], "has its own weights"),
        (["digits:test", "--kid-subsets", "0"], "kid_subsets is 0; it must be from 1"),
        ([*DRAWN, "--seeds", "0-63", "--reference", "digits", "--metrics", "fid"], "--few"),
        (["stats", "--out", "x.npz"], "no source"),
        (["stats", "digits:test", "--out", "x.pt"], "--out is x.pt; its suffix must be .npz"),
        (["loss", "digits-vp", "nowhere.npz"], "no such file"),
        (["digits:test", "--threads", "0"], "--threads is 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake gives one line on stderr and exit code 2."""
    assert main(["eval", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == ""
    assert printed.err.startswith("scoresde-fast: ") and printed.err.count("\n") == 1


def test_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of docs/evaluation.md run, on fewer images."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    monkeypatch.chdir(tmp_path)
    assert main(["sample", *DRAWN, "--seeds", "0-79", "--out", "vp"]) == 0
    blocks = re.findall(r"```(\w+)\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    commands = [line for language, code in blocks if language == "bash" for line in code.splitlines()]
    ours = [shlex.split(line)[1:] for line in commands if line.startswith("scoresde-fast")]
    for words in ours:
        quick = [] if words[1] in ("stats", "loss") else QUICK
        words = [{"0-4999": "0-79", "20": "3", "4": "1"}.get(word, word) for word in words]
        assert main([*words, *quick]) == 0
    assert len(ours) == 5 and (tmp_path / "report.html").exists()
    for code in (code for language, code in blocks if language == "python"):
        names: dict[str, Any] = {"__name__": "documentation"}
        exec(compile(code.replace("range(100)", "range(70)"), "evaluation.md", "exec"), names)
        assert names["evaluation"].result["metrics"]["fid"]["value"] > 0


def test_a_model_of_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model of points is refused."""
    save(sf.create(load_recipe("cld-toy")), tmp_path / "toy")
    assert main(["eval", str(tmp_path / "toy")]) == 2
    assert "is a model of points; these metrics are for images" in capsys.readouterr().err


def test_no_weights_of_inception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other image sizes need Inception; the message names the file of its weights and the option."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((3, 8, 8, 3), np.uint8))
    assert main(["eval", str(tmp_path / "images.npz")]) == 2
    error = capsys.readouterr().err
    assert "weights-inception-2015-12-05-6726825d.pth" in error and "--extractor-weights FILE" in error


def test_defaults_are_those_of_torch_fidelity() -> None:
    """The default settings equal torch-fidelity's, so that values are comparable."""
    theirs = load_torch_fidelity().defaults.DEFAULTS
    for name in ("kid_subsets", "isc_splits", "prc_neighborhood", "rng_seed"):
        assert getattr(MetricSettings(), name) == theirs[name]
    assert theirs["kid_subset_size"] == KID_SUBSET_SIZE
