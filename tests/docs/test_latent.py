# SPDX-License-Identifier: Apache-2.0
"""docs/latent.md: the code runs, the commands parse, and the pictures exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from scoresde_fast.cli import main
from scoresde_fast.cli.probability_flow import Decode, Encode, Interpolate, Likelihood

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "latent.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for language, code in BLOCKS if language == "bash" for line in code.splitlines()]


def test_code_runs() -> None:
    """The Python block runs unchanged; shapes are as on the page, and decoded images resemble the originals."""
    pytest.importorskip("sklearn")
    (code,) = (code for language, code in BLOCKS if language == "python")
    names: dict[str, Any] = {"__name__": "latent"}
    exec(compile(code, "latent.md", "exec"), names)
    assert names["codes"].shape == names["decoded"].shape == (2, 3, 16, 16)
    assert names["interpolated"].shape == (3, 3, 16, 16)
    assert 0.8 < names["codes"].std() < 1.2
    assert (names["decoded"] - names["batch"]).abs().mean() < 0.05
    result = names["result"]
    assert result.bits_per_dim.shape == result.standard_error.shape == (2,) and (result.bits_per_dim < 8).all()


@pytest.mark.parametrize("line", COMMANDS, ids=[line.split()[1] for line in COMMANDS])
def test_commands_parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program accepts every command line."""
    parsed: list[object] = []
    for command in (Decode, Encode, Interpolate, Likelihood):
        monkeypatch.setattr(command, "run", lambda self: parsed.append(self))
    assert main(shlex.split(line)[1:]) == 0
    assert len(parsed) == 1


def test_pictures_exist() -> None:
    """Every picture of the page is in docs."""
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE)
    assert len(pictures) == 3 and all((DOCS / picture).is_file() for picture in pictures)
