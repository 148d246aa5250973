# SPDX-License-Identifier: Apache-2.0
"""The code of docs/tuning.md runs, with few seeds and a short search."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path

import pytest

from scoresde_fast.cli import main
from scoresde_fast.tuning.gits import Gits

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tuning.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder, and tune with few seeds and times."""
    monkeypatch.chdir(tmp_path)
    tune = sys.modules["scoresde_fast.tuning.tune"]
    monkeypatch.setattr("scoresde_fast.tuning.flow.FINE_STEPS", 64)
    monkeypatch.setattr(tune, "SEEDS", range(8))
    monkeypatch.setattr(tune, "UNSEEN", range(8, 16))
    monkeypatch.setattr(tune, "Gits", partial(Gits, stride=8))
    gits = sys.modules["scoresde_fast.tuning.gits"]
    monkeypatch.setattr(gits, "SEEDS", 4)
    monkeypatch.setattr(gits, "Gits", partial(Gits, stride=8))


def test_commands() -> None:
    """All commands run one after another; the search is short."""
    for line in "".join(blocks("bash")).splitlines():
        assert main(line.replace("--seconds 300", "--seconds 1").split()[1:]) == 0


@pytest.mark.parametrize("code", blocks("python"))
def test_python(code: str) -> None:
    """Each block runs; the search is short."""
    exec(compile(code.replace("seconds=60", "seconds=1"), "page", "exec"), {"__name__": "page"})
