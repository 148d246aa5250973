# SPDX-License-Identifier: Apache-2.0
"""`tune`, its file, and sampling with the result."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import scoresde_fast as sf
from scoresde_fast.bench.measures import mixture, wasserstein_measure
from scoresde_fast.cli import main
from scoresde_fast.model import ScoreFunction
from scoresde_fast.tuned import Tuned, TunedSolver
from scoresde_fast.tuning.gits import Gits

CONFIG: dict[str, Any] = {
    "model": {"name": "ncsnpp", "nf": 8, "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": []},
    "data": {"dataset": "digits", "image_size": 8, "num_channels": 1, "centered": True},
    "training": {"sde": "vpsde"},
}


@pytest.fixture
def model(tmp_path: Path) -> sf.ScoreModel:
    """A small model with fresh weights, loaded from a folder."""
    torch.manual_seed(0)
    sf.create(CONFIG).save_pretrained(tmp_path / "model")
    return sf.load(tmp_path / "model")


@pytest.fixture(autouse=True)
def few_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune with few seeds, and GITS with few times."""
    tune = sys.modules["scoresde_fast.tuning.tune"]
    monkeypatch.setattr(tune, "SEEDS", range(32))
    monkeypatch.setattr(tune, "UNSEEN", range(32, 64))
    monkeypatch.setattr(tune, "Gits", partial(Gits, stride=8))


@pytest.fixture(scope="module")
def tuned() -> Tuned:
    """The result for a mixture, which has the exact score."""
    return sf.tune(mixture("mixture-vp"), (5, 8), seconds=10)


def test_better_than_the_default_on_other_seeds(tuned: Tuned) -> None:
    """On seeds that were not used for the choice, the tuned solvers are nearer to the flow than the default."""
    for solver in tuned.flow.values():
        assert solver.error < 0.8 * solver.default_error
        assert list(solver.curve) == sorted(solver.curve, reverse=True)


@pytest.mark.parametrize("name", ["mixture-vp", "mixture-cld"])
def test_number_of_evaluations(name: str) -> None:
    """A tuned solver takes exactly the number of evaluations for which it was tuned, also more than GITS has times."""
    model = mixture(name)
    tuned = sf.tune(model, (3, 30), seconds=0.01)  # the first fit of each
    assert [sf.Sampler(model, tuned.options(nfe)).nfe for nfe in (3, 30)] == [3, 30]


def test_too_many_evaluations() -> None:
    """More steps than there are fine times are refused."""
    assert "200 steps are more than the" in refused(lambda: sf.tune(mixture("mixture-vp"), (200,), seconds=0.01))


def test_solvers_nearest_to_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a measure the best of all solvers is kept too, and used unless the flow is asked for."""
    model = mixture("mixture-vp")
    monkeypatch.setattr("scoresde_fast.tuning.data.ROUNDS", (8, 16))
    tuned = sf.tune(model, (5,), seconds=6, measure=wasserstein_measure(16))
    assert len(tuned.data[5].curve) == 2
    assert tuned.data[5].error < tuned.data[5].default_error
    assert tuned.options(5) == tuned.data[5].options
    assert tuned.options(5, probability_flow=True) == tuned.flow[5].options


def test_file_in_the_folder_of_the_model(model: sf.ScoreModel, capsys: pytest.CaptureFixture[str]) -> None:
    """The command writes tuned.json beside the weights; solver="tuned" takes the number of steps from there."""
    assert model.folder is not None
    assert main(["tune", str(model.folder), "--nfe", "3", "5", "--seconds", "0.1"]) == 0
    assert (model.folder / "tuned.json").is_file()
    output = capsys.readouterr().out
    assert "3 evaluations: error of the flow" in output
    loaded = Tuned.load(model.folder / "tuned.json", model)
    sampler = sf.Sampler(model, "tuned", 5)
    assert sampler.options == loaded.options(5)
    assert sampler.nfe == 5
    again = sf.Sampler(model, f"tuned:{model.folder / 'tuned.json'}", 5)
    assert torch.equal(sampler.sample(3), again.sample(3))


def test_sets_of_samples(model: sf.ScoreModel, tmp_path: Path) -> None:
    """A set that a tuned solver began is complete with the same command, and verified without the file."""
    assert model.folder is not None
    assert main(["tune", str(model.folder), "--nfe", "3", "--seconds", "0.1"]) == 0
    command = ["sample", str(model.folder), "--solver", "tuned", "--steps", "3", "--out", str(tmp_path / "set")]
    assert main([*command, "--seeds", "0-3"]) == 0
    assert main([*command, "--seeds", "0-5"]) == 0
    next((tmp_path / "set").rglob("*.png")).unlink()
    (model.folder / "tuned.json").unlink()
    assert main(["verify", str(tmp_path / "set"), "--repair", "--model", str(model.folder)]) == 0


def refused(call: Any) -> str:
    """Return the message with which a call is refused."""
    with pytest.raises(ValueError) as error:
        call()
    return str(error.value)


def test_files_that_do_not_fit(model: sf.ScoreModel, tuned: Tuned, tmp_path: Path) -> None:
    """A file of another model, of another version, a damaged one and a missing one are refused with the reason."""
    path = tmp_path / "tuned.json"
    assert "does not exist: run scoresde-fast tune first" in refused(lambda: sf.Sampler(model, "tuned", 5))
    tuned.save(path, model)
    other = sf.load(model.folder or "")
    with torch.no_grad():
        next(other.parameters()).add_(1)
    message = refused(lambda: sf.Sampler(other, f"tuned:{path}", 5))
    assert "is of another model, which differs in weights_sha256: run scoresde-fast tune again" in message
    assert "which differs in" in refused(lambda: sf.Sampler(mixture("mixture-vp"), f"tuned:{path}", 5))
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "version": "0.0.1"}))
    assert "is of version '0.0.1', but this is" in refused(lambda: sf.Sampler(model, f"tuned:{path}", 5))
    for broken in ("{", "[]", "{}", json.dumps({**content, "flow": 3}), json.dumps({**content, "flow": {"5": {}}})):
        path.write_text(broken)
        assert "damaged" in refused(lambda: sf.Sampler(model, f"tuned:{path}", 5))


def test_options_that_do_not_fit(model: sf.ScoreModel, tuned: Tuned, tmp_path: Path) -> None:
    """Steps without a tuned solver, and options beside it, are refused with the choice."""
    path = tmp_path / "tuned.json"
    tuned.save(path, model)
    name = f"tuned:{path}"
    assert "steps is 12, but the model is tuned for 5, 8" in refused(lambda: sf.Sampler(model, name, 12))
    assert "needs a number of steps: choose from [5, 8]" in refused(lambda: sf.Sampler(model, name))
    assert "eta is 1.0, but solver 'tuned' has its own options" in refused(lambda: sf.Sampler(model, name, 5, eta=1.0))
    assert "was not loaded from a saved folder" in refused(lambda: sf.Sampler(mixture("mixture-vp"), "tuned", 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nfe": (1,)}, "nfe is 1; it must be an integer of at least 2"),
        ({"nfe": ()}, "nfe is empty; name at least one number of evaluations"),
        ({"seconds": 0}, "seconds is 0; it must be a finite number greater than 0"),
    ],
    ids=str,
)
def test_invalid_arguments(options: dict[str, Any], message: str) -> None:
    """Invalid arguments are refused before the search."""
    assert message in refused(lambda: sf.tune(mixture("mixture-vp"), **options))


class Timed:
    """A clock in which each evaluation of a network takes a second."""

    def __init__(self, model: ScoreFunction) -> None:
        self.now = 0.0
        model.network.register_forward_hook(self._tick)

    def _tick(self, *_: Any) -> None:
        self.now += 1.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("seconds", "images", "steps"), [(20.0, 1, 20), (20.5, 64, 20), (40.0, 128, 20), (1e9, 1, 99)])
def test_time_budget(monkeypatch: pytest.MonkeyPatch, seconds: float, images: int, steps: int) -> None:
    """The number of steps is the time over that of a step for all batches; without a solver at most 99."""
    model = mixture("mixture-vp")
    monkeypatch.setattr("scoresde_fast.tuning.time_budget.perf_counter", Timed(model))
    assert sf.steps_within(model, seconds, images, batch_size=64) == steps


def test_time_budget_with_a_tuned_solver(model: sf.ScoreModel, tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tuned solver the number of steps is one that it has; a budget that is too short is refused."""
    assert model.folder is not None
    Tuned(
        {nfe: TunedSolver(sf.SolverOptions("ddim", nfe, probability_flow=True), 1.0, 1.0, ()) for nfe in (5, 8)}, {}
    ).save(model.folder / "tuned.json", model)
    monkeypatch.setattr("scoresde_fast.tuning.time_budget._duration", lambda sampler, images: float(sampler.nfe))
    assert sf.steps_within(model, 7.9, solver="tuned") == 5
    assert sf.steps_within(model, 100.0, solver="tuned") == 8
    message = refused(lambda: sf.steps_within(model, 2.0, solver="tuned"))
    assert message == (
        "the time budget is 2 s, but 1 image in 5 steps take 5 s: allow more time, or sample fewer images"
    )


def test_time_budget_of_the_command(model: sf.ScoreModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints the number of steps; together with --steps, or without a number, it is refused."""
    command = ["sample", str(model.folder), "--seeds", "0-1", "--out", str(tmp_path / "set")]
    assert main([*command, "--time-budget", "2min"]) == 0
    assert "99 steps" in capsys.readouterr().out
    assert main([*command, "--time-budget", "1s", "--steps", "5"]) == 2
    assert "--time-budget chooses the number of steps" in capsys.readouterr().err
    assert main([*command, "--time-budget", "soon"]) == 2
    assert "the time budget is 'soon'; it must be a number of seconds" in capsys.readouterr().err
