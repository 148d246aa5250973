# SPDX-License-Identifier: Apache-2.0
"""Runs of training as models: a run's folder, its states and its snapshots, in Python and at the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from scoresde_fast.checkpoints import load, load_classifier
from scoresde_fast.cli import main
from scoresde_fast.training import ClassifierTrainer, Trainer, train, trainer
from tests.support.resumed_runs import finish
from tests.support.tiny_recipes import tiny_recipe
from tests.support.tiny_training import config, points

pytest.importorskip("sklearn")


@pytest.fixture
def run(tmp_path: Path) -> Trainer:
    """Return a run of points stopped after step 6, with a state of step 6 and a snapshot of step 4."""
    stopped = Trainer(points(), tmp_path / "run")
    for step, _ in stopped.run():
        if step == 6:
            break
    stopped.save()
    return stopped


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in model.parameters() if weight.requires_grad]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_states_and_snapshots_load(run: Trainer) -> None:
    """A folder loads as its newest averages, a state as its own, and a snapshot as those of its step."""
    for path in (run.folder, run.folder / "state.pt"):
        model = load(path)
        assert same(weights(model), run.ema.shadow) and not model.training and model.config == run.config
        assert same(weights(load(path, ema=False)), weights(run.network))
    previous, snapshot = load(run.folder / "state.previous.pt"), load(run.folder / "checkpoint_4")
    assert same(weights(previous), weights(snapshot)) and not same(weights(snapshot), run.ema.shadow)
    renamed = run.state_path.rename(run.folder / "best.pth")
    assert same(weights(load(renamed)), run.ema.shadow)


def test_damaged_state_of_a_model(run: Trainer) -> None:
    """A folder with a damaged state loads as the state before, with a warning; the damaged file itself is refused."""
    run.state_path.write_bytes(run.state_path.read_bytes()[:3000])
    with pytest.warns(UserWarning, match=r"state\.previous\.pt, of step 4, is taken instead"):
        model = load(run.folder)
    assert same(weights(model), weights(load(run.folder / "checkpoint_4")))
    with pytest.raises(ValueError, match="truncated or corrupt"):
        load(run.state_path)


def test_run_without_states(run: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its states a run loads as its trained model, and if it has none as its newest snapshot."""
    for path in run.folder.glob("state*"):
        path.unlink()
    shutil.copytree(run.folder / "checkpoint_4", run.folder / "checkpoint_12")
    (run.folder / "checkpoint_12" / "config.json").unlink()  # killed while it was written
    assert same(weights(load(run.folder)), weights(load(run.folder / "checkpoint_4")))
    monkeypatch.setattr(trainer, "write_grid", lambda run: None)
    with pytest.raises(ValueError, match=r"has checkpoint_4 of a run but not its state\.pt; choose another folder, or"):
        train(points(), run.folder, progress=False)  # would replace them
    for path in run.folder.glob("checkpoint_*"):
        shutil.rmtree(path)
    model = train(points(), run.folder, progress=False)
    for path in run.folder.glob("state*"):
        path.unlink()
    assert same(weights(load(run.folder)), weights(load(model)))


def test_other_configuration_is_refused(run: Trainer) -> None:
    """A run contains its configuration; another one beside it is refused, as for a saved folder."""
    load(run.folder, config=points())
    with pytest.raises(ValueError, match="contains its configuration, which differs from the given config"):
        load(run.folder, config=config())


def test_classifiers(tmp_path: Path, run: Trainer) -> None:
    """A run of a classifier and its state load as a classifier; each kind refuses the other."""
    trained = ClassifierTrainer(tiny_recipe(training={"n_iters": 3}), tmp_path / "classifier")
    finish(trained)
    for path in (trained.folder, trained.folder / "state.pt"):
        classifier = load_classifier(path)
        assert same(weights(classifier), trained.ema.shadow) and not classifier.training
        with pytest.raises(ValueError, match="is a classifier, not a score model"):
            load(path)
    assert same(weights(load_classifier(trained.folder / "checkpoint_3")), trained.ema.shadow)
    with pytest.raises(ValueError, match="is a score model, but a classifier is needed"):
        load_classifier(run.folder)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands take a run, its state and a snapshot as MODEL, and eval does not read a run as a folder of grids."""
    run = Trainer(config(n_iters=2, snapshot_freq=1), tmp_path / "run")
    finish(run)
    options = ["--seeds", "0-1", "--steps", "2"]
    for model in ("run", "run/state.pt", "run/checkpoint_2"):
        out = tmp_path / "images"  # the same set: a model with other weights would be refused
        assert main(["sample", str(tmp_path / model), *options, "--out", str(out)]) == 0
    assert "2 images already existed" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "saved")]) == 0
    assert same(weights(load(tmp_path / "saved")), run.ema.shadow)
    for model in ("run", "run/state.pt"):
        arguments = [str(tmp_path / model), *options, "--reference", "digits:test", "--metrics", "fid", "--few"]
        assert main(["eval", *arguments, "--resamples", "0"]) == 0
        assert "fid" in capsys.readouterr().out.lower()
