# SPDX-License-Identifier: Apache-2.0
"""Training of score models: learning, kills, resuming, data, and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde_fast.checkpoints import load
from scoresde_fast.cli import main
from scoresde_fast.configs import Config
from scoresde_fast.data import in_memory, load_dataset
from scoresde_fast.model import ScoreModel
from scoresde_fast.training import Trainer, load_recipe, train
from scoresde_fast.training.trainer import Batch
from tests.support.resumed_runs import assert_resumes_exactly, finish
from tests.support.tiny_training import config, with_data

pytest.importorskip("sklearn")


def test_seeds_share_no_randomness() -> None:
    """Different seeds and steps share no randomness, although PyTorch's generator uses only 32 bits of a seed."""
    model = ScoreModel(load_recipe("digits-vp"))
    drawn = [Batch.draw(seed, step, 2, 100, model).z for seed in (0, 1, 2) for step in (0, 1)]
    for index, z in enumerate(drawn):
        assert not any(torch.equal(z, other) for other in drawn[:index])


def test_resumed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    """A run that was stopped and resumed ends with the same weights, averages and curve, bit for bit."""
    assert_resumes_exactly(lambda folder: Trainer(config(), folder), tmp_path, snapshot=4)


def test_snapshot_survives_kill(tmp_path: Path) -> None:
    """After kill -9 during a run the snapshot loads, and at most the last interval is lost."""
    code = (
        "import sys, json; from pathlib import Path; from scoresde_fast.configs import Config;"
        "from scoresde_fast.training import Trainer;"
        "t = Trainer(Config.from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]));"
        "[print(step, flush=True) for step, _ in t.run()]"
    )
    options = json.dumps(config(n_iters=100_000, snapshot_freq=1).to_dict())
    process = subprocess.Popen(
        [sys.executable, "-c", code, options, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    steps = [int(process.stdout.readline()) for _ in range(5)]
    time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    steps += [int(line) for line in process.stdout.read().split()]
    process.wait()
    resumed = Trainer(Config.from_dict(json.loads(options)), tmp_path)
    assert resumed.step >= steps[-1] - 1


def test_other_configuration_is_refused(tmp_path: Path) -> None:
    """A folder with a run is refused for another configuration or seed."""
    finish(Trainer(config(), tmp_path))
    with pytest.raises(ValueError, match=r"batch_size: \d+ saved, 4 requested"):
        Trainer(config(batch_size=4), tmp_path)
    with pytest.raises(ValueError, match="seed: 0 saved, 1 requested"):
        Trainer(config(), tmp_path, seed=1)


def test_non_finite_loss_stops_the_run(tmp_path: Path) -> None:
    """A loss that is not finite stops the run with the number of the step; the snapshot does not change."""
    trainer = Trainer(config(), tmp_path)
    trainer.save()
    with torch.no_grad():
        next(trainer.model.network.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="at step 1"):
        finish(trainer)
    assert Trainer(config(), tmp_path).step == 0


def test_trained_model_loads(tmp_path: Path) -> None:
    """A run writes the averaged weights in half precision, its record, grids and events."""
    pytest.importorskip("tensorboard")
    folder = train(config(), tmp_path, half=True, tensorboard=True, progress=False)
    assert list((tmp_path / "events").iterdir())
    record = json.loads((folder / "recipe.json").read_text())
    assert (record["seed"], record["steps"]) == (0, 9) and len(record["loss"]) == 3
    assert sorted(path.name for path in (tmp_path / "grids").iterdir()) == [f"step-00000{n}.png" for n in (4, 8, 9)]
    averages = Trainer(config(), tmp_path).ema.shadow
    trained = [p for p in load(folder).parameters() if p.requires_grad]
    assert all(torch.equal(a.half().float(), b) for a, b in zip(averages, trained, strict=True))


def test_learns(tmp_path: Path) -> None:
    """Sixty steps reduce the loss by at least a fifth."""
    losses = finish(Trainer(config(n_iters=60, batch_size=16), tmp_path))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_losses_do_not_depend_on_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set, an archive and a memory-mapped file with the same images give the same losses."""
    images = load_dataset("digits")[0]
    np.savez(tmp_path / "digits.npz", arr_0=images.permute(0, 2, 3, 1).numpy())
    named = finish(Trainer(config(), tmp_path / "named"))
    assert finish(Trainer(with_data(str(tmp_path / "digits.npz")), tmp_path / "given")) == named
    np.save(tmp_path / "digits.npy", images.permute(0, 2, 3, 1).numpy())
    monkeypatch.setattr(in_memory, "MAX_BYTES", 0)  # treat every file as too large for memory
    assert finish(Trainer(with_data(str(tmp_path / "digits.npy")), tmp_path / "mapped")) == named


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        ("digits@8", ValueError, "images of digits@8 are 8x8 with 3 channels, but the model expects 16x16"),
        ("FFHQ", ValueError, "data.dataset is 'FFHQ', which cannot be found by name; .* --data"),
        ("diamond", ValueError, "diamond contains points, but the model expects images"),
        ("no/such", FileNotFoundError, "no such file or folder: 'no/such'"),
        ("CIFAR10", FileNotFoundError, "cifar10 is not in .*: put cifar-10-binary.tar.gz"),
    ],
)
def test_unsuitable_data_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, error: type[Exception], message: str
) -> None:
    """Images of another size, points and missing data are refused before anything is written."""
    monkeypatch.setenv("SCORESDE_FAST_DATA", str(tmp_path))
    with pytest.raises(error, match=message):
        Trainer(with_data(dataset), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_at_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--data replaces the configuration's data set and is recorded; without a terminal, progress is in lines."""
    recipe, folder = tmp_path / "tiny.json", tmp_path / "photos"
    recipe.write_text(json.dumps(config(n_iters=1).to_dict()))
    folder.mkdir()
    Image.new("RGB", (40, 30), (90, 10, 200)).save(folder / "a.png")
    source = f"{folder}@16"
    assert main(["train", str(recipe), "--data", source, "--out", str(tmp_path / "run")]) == 0
    assert "step 1 of 1, loss" in capsys.readouterr().err
    assert load(tmp_path / "run" / "model").config.data.dataset == source
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 2
    assert "config.data.dataset: " in capsys.readouterr().err
    assert main(["train", "digits-features", "--data", source, "--out", str(tmp_path / "features")]) == 2
    assert "leave out --data" in capsys.readouterr().err


def test_discrete_models_are_refused(tmp_path: Path) -> None:
    """A discrete preset is refused, because training supports continuous score matching only."""
    with pytest.raises(ValueError, match=r"training\.continuous is false"):
        Trainer(load_recipe("ve/cifar10_ncsnpp"), tmp_path)
