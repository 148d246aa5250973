# SPDX-License-Identifier: Apache-2.0
"""The examples: each trains a network of its own, samples it, writes a set and prints its distance to the data."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import tyro
from PIL import Image

pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "unet")
GUIDED = "classifier_free_guidance"
UNCONDITIONAL = [name for name in NAMES if name != GUIDED]
GAIN = 3
"""Least ratio of the distances after a tenth of the training and after all of it; those measured are 6 to 18."""
Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs an example with command-line options, and returns what it prints."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def run(name: str, *options: object) -> str:
        if name == "diffusers_unet":
            pytest.importorskip("diffusers")
        with torch.random.fork_rng():
            tyro.cli(importlib.import_module(name).main, args=[str(option) for option in options])
        return capsys.readouterr().out

    return run


def distances(printed: str) -> list[float]:
    """Return the Frechet distances that an example prints; the last is that of the held-out digits."""
    return [float(number) for number in re.findall(r"digits:? (\d+\.\d+|nan|inf)$", printed, re.MULTILINE)]


def recognised(printed: str) -> list[float]:
    """Return the percentages of recognised digits that an example prints; the last is that of the held-out digits."""
    return [float(number) for number in re.findall(r"(\d+\.\d)% recognised", printed)]


def require_set(folder: Path, count: int) -> None:
    """Check that a folder has the PNGs of the seeds 0 to ``count`` - 1, their description and a grid."""
    images = sorted(folder.glob("000/*.png"))
    assert [path.name for path in images] == [f"{seed:06}.png" for seed in range(count)]
    assert all(Image.open(path).size == (16, 16) for path in images)
    assert Image.open(folder.with_name(f"{folder.name}.grid.png")).size[0] > 3 * 16
    sampler = json.loads((folder / "samples.json").read_text())["configuration"]["sampler"]
    assert sampler["steps"] <= 20 and len(sampler["model"]["weights_sha256"]) == 64


@pytest.mark.parametrize("name", UNCONDITIONAL)
def test_writes_a_set_and_prints_distances(name: str, run: Run, tmp_path: Path) -> None:
    """A short run writes the images that were asked for, and prints finite distances, smaller for real digits."""
    out = tmp_path / "new" / name
    printed = run(name, "--train-steps", 2, "--images", 8, "--out", out)
    assert f"8 samples in {out}" in printed
    require_set(out, 8)
    sampled, held_out = distances(printed)
    assert math.isfinite(sampled) and sampled > held_out > 0


def test_guidance_writes_the_classes_and_prints_shares(run: Run, tmp_path: Path) -> None:
    """The picture has a column for each class; distances and shares are printed without and with guidance."""
    out = tmp_path / "run"
    printed = run(GUIDED, "--train-steps", 2, "--images", 20, "--scale", 3, "--out", out)
    require_set(out / "samples", 20)
    width, height = Image.open(out / "classes.png").size
    assert 4 < width / height < 6  # ten columns, two rows
    assert "with guidance 3: " in printed
    *sampled, held_out = distances(printed)
    assert len(sampled) == 2 and all(math.isfinite(distance) and distance > held_out > 0 for distance in sampled)
    *shares, real = recognised(printed)
    assert len(shares) == 2 and all(0 <= share < real for share in shares) and real > 95


@pytest.mark.parametrize("name", NAMES)
def test_existing_folders_are_refused_before_training(name: str, run: Run, tmp_path: Path) -> None:
    """A second run into the same folder ends at once, not after its training."""
    with pytest.raises(FileExistsError, match=re.escape(str(tmp_path))):
        run(name, "--out", tmp_path)


def test_page_lists_the_examples() -> None:
    """The page links every file, and its commands name files and options that exist."""
    page = (EXAMPLES / "README.md").read_text()
    assert set(re.findall(r"\]\((\w+)\.py\)", page)) == {*NAMES, "unet"}
    commands = re.findall(r"^python examples/(\w+)\.py(.*)$", page, re.MULTILINE)
    assert {name for name, _ in commands} == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_default_training_is_long_enough(name: str, run: Run, tmp_path: Path) -> None:
    """Samples after the default training are at least `GAIN` times nearer to the data than after a tenth of it."""
    steps = inspect.signature(importlib.import_module(name).main).parameters["train_steps"].default
    short = run(name, "--train-steps", steps // 10, "--out", tmp_path / "short")
    full = run(name, "--out", tmp_path / "full")
    assert distances(full)[-2] < distances(short)[-2] / GAIN
    if name == GUIDED:
        plain, guided, _ = recognised(full)
        assert guided >= plain > 90
