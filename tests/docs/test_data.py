# SPDX-License-Identifier: Apache-2.0
"""docs/data.md: the code runs, the commands parse, and the checksums are those of the package."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from scoresde_fast.cli import main
from scoresde_fast.cli.models import Train
from scoresde_fast.cli.probability_flow import Likelihood
from scoresde_fast.data.public_sets import MD5, SETS

pytestmark = pytest.mark.same_everywhere

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for language, code in BLOCKS if language == "bash" for line in code.splitlines()]


def test_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The Python block runs unchanged, and prints what its comments say."""
    pytest.importorskip("sklearn")
    (code,) = (code for language, code in BLOCKS if language == "python")
    names: dict[str, Any] = {"__name__": "data"}
    exec(compile(code, "data.md", "exec"), names)
    assert re.findall(r"print\(.*\)  # (.*)", code) == capsys.readouterr().out.splitlines()
    assert names["small"].shape == (3, 8, 8) and names["batch"].labels.shape == (64,)


@pytest.mark.parametrize("line", COMMANDS, ids=[line.split()[1] for line in COMMANDS])
def test_commands_parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program accepts every command line."""
    parsed: list[object] = []
    for command in (Likelihood, Train):
        monkeypatch.setattr(command, "run", lambda self: parsed.append(self))
    assert main(shlex.split(line)[1:]) == 0
    assert len(parsed) == 1


def test_official_files() -> None:
    """The table has every file of the package's list, with its checksum and its page."""
    rows = re.findall(r"^\| `([^`]+)` \| `([0-9a-f]{32})` \| (\S+) \|$", PAGE, re.MULTILINE)
    pages = {file: data_set.page for data_set in SETS.values() for files in data_set.splits.values() for file in files}
    assert {file: md5 for file, md5, _ in rows} == MD5
    assert all(pages[file] == page for file, _, page in rows)
