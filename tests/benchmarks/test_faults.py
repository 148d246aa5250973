# SPDX-License-Identifier: Apache-2.0
"""The fuzz of faults: it finds planted ones, and a short run tries every kind."""

from __future__ import annotations

import ctypes
import json
import mmap
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from benchmarks.files import ROOT
from benchmarks.fuzz.cases import (
    CRASH,
    HANG,
    HEAVY,
    RIGHT,
    SILENT,
    TRACEBACK,
    UNCLEAR,
    UNDETECTED,
    Case,
    Kind,
    Outcome,
    judged,
)  # fmt: skip
from benchmarks.fuzz.processes import run_cases
from benchmarks.fuzz.sets import damage
from scoresde_fast.errors import require_positive

pytestmark = pytest.mark.same_everywhere


def _allocate() -> object:
    with mmap.mmap(-1, 100 << 20) as pages:  # bytes could reuse memory that the process has freed and kept
        return pages.write(b"x" * (10 << 20)) + sum(pages.write(bytes(10 << 20)) for _ in range(9))


def _number(result: object) -> str:
    return "" if isinstance(result, int) else "accepted"


def _warn() -> None:
    warnings.warn("a word", stacklevel=1)


PLANTED: list[tuple[str, Callable[[], object]]] = [
    (RIGHT, lambda: require_positive("x", -1.0)),
    (RIGHT, _warn),
    (RIGHT, lambda: Path("nowhere").read_bytes()),
    (TRACEBACK, lambda: dict[str, int]()["x"]),
    (TRACEBACK, lambda: 1 / 0),
    (UNCLEAR, lambda: int("x")),
    (UNCLEAR, lambda: require_positive("x" * 3000, -1.0)),
    (SILENT, lambda: None),
    (CRASH, lambda: ctypes.string_at(0)),
    (HANG, lambda: time.sleep(60)),
    (HEAVY, _allocate),
    (RIGHT, lambda: require_positive("x", -1.0)),
]
"""Calls and their verdicts; a result is wrong unless it is a number."""


@pytest.mark.parametrize("separate", [False, True])
def test_planted_faults(separate: bool, tmp_path: Path) -> None:
    """Every verdict is found, with the cases after a crash and a hang, and the limit of memory is one case's own."""

    def make(random: Random, count: int, shared: Path) -> Iterator[Case]:
        for index, (_, call) in enumerate(PLANTED):
            yield Case("planted", str(index), lambda folder, call=call: judged(call, _number))  # type: ignore[misc]

    kind = Kind("planted", "planted", make, len(PLANTED), 1.0, hang_seconds=2, megabytes=50, separate=separate)
    results = sorted(run_cases(kind, len(PLANTED), "seed", tmp_path), key=lambda result: result.index)
    assert [result.what for result in results] == [str(index) for index in range(len(PLANTED))]
    assert [result.outcome.verdict for result in results] == [verdict for verdict, _ in PLANTED]


def test_a_fault_of_the_fuzz_is_no_answer(tmp_path: Path) -> None:
    """An error of a case itself, or of its preparation, does not pass for a right answer."""

    def fail(folder: Path) -> Outcome:
        raise ValueError("a mistake in the fuzz")

    def fail_at_once(random: Random, count: int, shared: Path) -> list[Case]:
        raise ValueError("a mistake in the fuzz")

    for make in (lambda *_: [Case("", "", fail)], fail_at_once):
        (result,) = run_cases(Kind("", "", make, 1, 1.0), 1, "seed", tmp_path / make.__name__)
        assert result.outcome.verdict == CRASH and "a mistake in the fuzz" in result.outcome.message


def test_damage_always_changes_the_content() -> None:
    """Damage depends on the seed alone, and is never none."""
    content = bytes(range(256)) * 4 + bytes(600)
    found = [damage(Random(seed), content) for seed in range(200)]
    assert all(damaged != content for *_, damaged in found)
    assert found == [damage(Random(seed), content) for seed in range(200)]
    assert {what.split()[0].rstrip("0123456789") for what, *_ in found} >= {"bit", "byte", "cut"}


def test_a_short_run(tmp_path: Path) -> None:
    """The script tries every kind, writes the result with its command and versions, and itself makes no error."""
    command = [sys.executable, "benchmarks/faults.py", "--part", "0.004", "--json", str(tmp_path / "faults.json")]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode in (0, 1) and not process.stderr, process.stderr
    result = json.loads((tmp_path / "faults.json").read_text())
    assert result["command"].startswith("python benchmarks/faults.py") and result["device"]["versions"]
    kinds = {kind["kind"]: kind for kind in result["kinds"]}
    assert {*kinds} == {
        "kills", "flips", "images", "checkpoints", "configurations", "options", "commands", "operators",
    }  # fmt: skip
    for kind in kinds.values():
        assert sum(kind["verdicts"].values()) == sum(fault["count"] for fault in kind["faults"])
        assert not [fault for fault in kind["faults"] if fault["cause"].startswith("in the fuzz")], kind["faults"]
        assert kind["done"] == kind["cases"] > 0
    assert kinds["kills"]["verdicts"][UNDETECTED] == 0, "killed writers leave no damage"
