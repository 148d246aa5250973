# SPDX-License-Identifier: Apache-2.0
"""Damaged states of runs: the state before is taken and says so, and no other weights are ever taken."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scoresde_fast.checkpoints import load
from scoresde_fast.checkpoints.training_states import DamagedStateError
from scoresde_fast.cli import main
from scoresde_fast.training import Trainer
from tests.support.resumed_runs import assert_same, finish
from tests.support.tiny_training import points, trained, write_recipe


def rewritten(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return a damage that changes the sections of a state, with right checksums."""

    def damage(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)

    return damage


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def misshaped_weight(state: dict[str, Any]) -> None:
    state["network"][next(iter(state["network"]))] = torch.zeros(1)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:3000]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a state"),
    "a bit flipped": flipped,
    "no dict": lambda path: torch.save([1, 2], path),
    "official checkpoint": lambda path: torch.save({"model": {}, "ema": {}, "step": 1}, path),
    "an object": lambda path: torch.save({"config": points()}, path),
    "without weights": rewritten(lambda state: state.pop("network")),
    "without averages": rewritten(lambda state: state["ema"].pop("shadow")),
    "a misshapen average": rewritten(lambda state: state["ema"]["shadow"].__setitem__(0, torch.zeros(1))),
    "a misshapen weight": rewritten(misshaped_weight),
    "a misshapen moment": rewritten(lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(1))),
    "no optimiser": rewritten(lambda state: state["optimizer"].clear()),
    "a curve of words": rewritten(lambda state: state.update(curve=["a"])),
    "steps in words": rewritten(lambda state: state.update(step="eight")),
    "data of no identity": rewritten(lambda state: state.update(data=3)),
}  # fmt: skip
FATAL = {**DAMAGES, "a folder": made_a_folder}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """Return an uninterrupted run."""
    return trained(points(), tmp_path_factory.mktemp("whole"))


def interrupted(folder: Path) -> Path:
    """Return the newest state, of step 8, of a run without its last step; the one before is of step 4."""
    for step, _ in Trainer(points(), folder).run():
        if step == 8:
            break
    return folder / "state.pt"


@pytest.mark.parametrize("damage", DAMAGES)
def test_state_before_is_taken(tmp_path: Path, whole: Trainer, damage: str) -> None:
    """One warning names the damaged file and the step that is taken; the result is that of an undamaged run."""
    path = interrupted(tmp_path)
    DAMAGES[damage](path)
    with pytest.warns(UserWarning, match=r"state\.pt .*; state\.previous\.pt, of step 4, is taken instead") as warned:
        resumed = Trainer(points(), tmp_path)
    assert len(warned) == 1 and resumed.step == 4
    resumed.save()  # a kill after this save finds two intact states: the damaged one did not replace the one before
    (tmp_path / "state.pt").unlink()
    assert Trainer(points(), tmp_path).step == 4
    finish(resumed)
    assert_same(resumed, whole)


@pytest.mark.parametrize("damage", FATAL)
def test_no_intact_state(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    """Without an intact state the command says so in one line, keeps the files, and names a snapshot that loads."""
    newest = interrupted(tmp_path / "run")
    for path in (newest, newest.with_name("state.previous.pt")):
        FATAL[damage](path)
    recipe = write_recipe(tmp_path / "tiny.json", points())
    assert main(["train", recipe, "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "state.pt" in line and "state.previous.pt" in line
    assert "the run has no intact state: restore state.pt from a copy, or choose another folder" in line
    assert newest.exists() and line.endswith("checkpoint_8 loads as a model")
    load(tmp_path / "run" / "checkpoint_8")


def test_only_state_is_damaged(tmp_path: Path) -> None:
    """A run killed before its second save has one state; if it is damaged, the run is refused, not begun again."""
    Trainer(points(), tmp_path).save()
    (tmp_path / "state.pt").write_bytes(b"PK")
    with pytest.raises(DamagedStateError, match="truncated or damaged; the run has no intact state"):
        Trainer(points(), tmp_path)


def test_no_flip_of_a_bit_passes(tmp_path: Path) -> None:
    """Whatever bit of a state is flipped, the weights are its own or, with a warning, those of the state before."""
    path = interrupted(tmp_path)
    intact = path.read_bytes()
    before = torch.load(path.with_name("state.previous.pt"), weights_only=True)["network"]
    own = torch.load(path, weights_only=True)["network"]
    chosen = random.Random(0)
    taken = []
    for _ in range(30):
        content = bytearray(intact)
        content[chosen.randrange(len(content))] ^= 1 << chosen.randrange(8)
        path.write_bytes(content)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            weights = Trainer(points(), tmp_path).network.state_dict()
        expected = before if warned else own
        assert all(torch.equal(weight, expected[name]) for name, weight in weights.items())
        taken.append(bool(warned))
    assert any(taken)
