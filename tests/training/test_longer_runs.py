# SPDX-License-Identifier: Apache-2.0
"""What may change when a run goes on: its length and when it saves; and what may not, such as its data."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde_fast.checkpoints import load, save
from scoresde_fast.checkpoints.training_states import snapshots
from scoresde_fast.cli import main
from scoresde_fast.configs import Config, load_config
from scoresde_fast.data import in_memory
from scoresde_fast.model import ScoreModel, describe_model
from scoresde_fast.training import Trainer, train, trainer
from scoresde_fast.training.data_identity import describe_change, identify
from tests.support.resumed_runs import assert_same, finish
from tests.support.tiny_training import POINTS, points, trained, with_data, write_recipe


def test_finished_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run with more iterations equals one that had them from the start, and replaces the trained model."""
    monkeypatch.setattr(trainer, "write_grid", lambda run: None)
    train(points(n_iters=5), tmp_path / "parts", progress=False)
    model = train(points(n_iters=9, log_freq=2, snapshot_freq=3), tmp_path / "parts", progress=False)
    resumed = Trainer(points(), tmp_path / "parts")
    whole = trained(points(), tmp_path / "whole")
    assert resumed.step == 9
    assert all(torch.equal(a, b) for a, b in zip(resumed.ema.shadow, whole.ema.shadow, strict=True))
    assert load(model).config.training.n_iters == 9
    assert json.loads((model / "recipe.json").read_text())["steps"] == 9


def test_changed_values_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every other changed value is named with its old and new value; fewer iterations than were done are refused."""
    trained(points(), tmp_path / "run")
    changed = Config.from_dict({**points(batch_size=4, n_iters=60).to_dict(), "optim": {"lr": 0.5, "warmup": 5}})
    recipe = write_recipe(tmp_path / "changed.json", changed)
    assert main(["train", recipe, "--out", str(tmp_path / "run")]) == 2
    line = capsys.readouterr().err
    assert "config.training.batch_size: 8 saved, 4 requested; config.optim.lr: 0.001 saved, 0.5 requested" in line
    assert "n_iters" not in line
    recipe = write_recipe(tmp_path / "fewer.json", points(n_iters=7))
    assert main(["train", recipe, "--out", str(tmp_path / "run")]) == 2
    assert "training.n_iters is 7, but" in (line := capsys.readouterr().err) and "has done 9 steps" in line


def test_decayed_rate_that_rises_again_is_said(tmp_path: Path) -> None:
    """A longer run differs from one of that length if the rate fell towards the former end, and only then."""

    def decaying(n_iters: int) -> Config:
        options = points(n_iters=n_iters).to_dict()
        return Config.from_dict({**options, "optim": {**POINTS["optim"], "decay": 3}})

    for step, _ in Trainer(decaying(9), tmp_path).run():
        if step == 4:
            break
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finish(Trainer(decaying(9), tmp_path))  # goes on at step 4, before the decay
    with pytest.warns(UserWarning, match=r"step 9 of 9, where optim\.decay 3 lowers the learning rate"):
        Trainer(decaying(20), tmp_path)


def test_option_of_the_originals_for_preemption(tmp_path: Path) -> None:
    """Every ``snapshot_freq_for_preemption`` steps the state is saved, and no snapshot is kept."""
    options = points(snapshot_freq=50000, snapshot_freq_for_preemption=2)
    for step, _ in Trainer(options, tmp_path).run():
        if step == 7:
            break
    assert Trainer(options, tmp_path).step == 6 and not snapshots(tmp_path)
    with pytest.raises(ValueError, match="snapshot_freq_for_preemption is 0; it must be from 1"):
        points(snapshot_freq_for_preemption=0)
    official = load_config("ve/ffhq_256_ncsnpp_continuous").training
    assert official.snapshot_freq_for_preemption == 5000


def test_option_for_preemption_is_no_part_of_a_model(tmp_path: Path) -> None:
    """When a run saves changes neither the description of its samples nor the configuration that identifies it."""
    often, seldom = points(snapshot_freq_for_preemption=1), points()
    save(ScoreModel(seldom), tmp_path)
    model = load(tmp_path, config=often)
    assert "snapshot_freq_for_preemption" not in describe_model(model)["config"]["training"]


def photos(folder: Path, count: int) -> str:
    """Write ``count`` images of noise to ``folder``, and return it as a source of 16x16 images."""
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{index:02d}.png")
    return f"{folder}@16"


@pytest.mark.parametrize("in_memory_bytes", [1 << 31, 0])
def test_changed_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory_bytes: int) -> None:
    """Deleted, added and changed images are refused by name, in memory and on disk; restored ones are taken again."""
    monkeypatch.setattr(in_memory, "MAX_BYTES", in_memory_bytes)
    options = with_data(photos(tmp_path / "photos", 20), n_iters=2, snapshot_freq=2)
    trained(options, tmp_path / "run")
    for index in range(5, 20):
        (tmp_path / "photos" / f"{index:02d}.png").unlink()
    with pytest.raises(
        ValueError, match=r"data .*photos@16 have changed since .*state\.pt .*: 20 then, 5 now; restore"
    ):
        Trainer(options, tmp_path / "run")
    photos(tmp_path / "photos", 21)
    with pytest.raises(ValueError, match="20 then, 21 now"):
        Trainer(options, tmp_path / "run")
    (tmp_path / "photos" / "20.png").unlink()
    assert Trainer(options, tmp_path / "run").step == 2
    Image.new("RGB", (16, 16)).save(tmp_path / "photos" / "07.png")
    with pytest.raises(ValueError, match="as many of the same shape, but with other contents"):
        Trainer(options, tmp_path / "run")


def test_labels_identify_data() -> None:
    """Images with other labels are other data; another shape is named."""
    images, labels = torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.arange(4)
    saved = json.loads(json.dumps(identify(images, labels)))
    assert not describe_change(saved, identify(images, labels))
    assert "other contents" in describe_change(saved, identify(images, labels.flip(0)))
    assert describe_change(saved, identify(images[:, :1], labels)) == "of shape [3, 2, 2] then, [1, 2, 2] now"


def test_state_of_an_earlier_version(tmp_path: Path) -> None:
    """A state without the identity of its data and without the option for preemption goes on."""
    whole = trained(points(), tmp_path / "whole")
    for step, _ in Trainer(points(), tmp_path / "parts").run():
        if step == 4:
            break
    path = tmp_path / "parts" / "state.pt"
    state = torch.load(path, weights_only=True)
    del state["data"], state["config"]["training"]["snapshot_freq_for_preemption"]
    torch.save(state, path)
    resumed = Trainer(points(), tmp_path / "parts")
    assert resumed.step == 4
    finish(resumed)
    assert_same(resumed, whole)


@pytest.mark.parametrize("out", ["photos/run", "photos", "link/run", "photos/sub/../run"])
def test_run_among_its_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str) -> None:
    """A run inside the folder of its images, or of a set of samples, would train on its grids; nothing is written."""
    source = photos(tmp_path / "photos", 2)
    (tmp_path / "photos" / "samples.json").write_text("{}")
    (tmp_path / "photos" / "sub").mkdir()
    (tmp_path / "link").symlink_to("photos")
    before = sorted(tmp_path.rglob("*"))
    recipe = write_recipe(tmp_path.parent / f"{tmp_path.name}.json", with_data(source, n_iters=1))
    assert main(["train", recipe, "--data", source, "--out", str(tmp_path / out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is inside the training images" in line and "choose a folder elsewhere" in line
    assert sorted(tmp_path.rglob("*")) == before
