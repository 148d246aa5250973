# SPDX-License-Identifier: Apache-2.0
"""The proofs of `benchmarks.kernels.sass`: the kernels' machine code, made without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

STEPS = ("affine_step", "affine_step_pair")

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python without Triton's interpreter, so that kernels are compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *command],
        env=environment | {"PYTHONPATH": str(root)},
        cwd=root,
        capture_output=True,
        text=True,
    )


def prove(root: Path, folder: Path, *options: str) -> list[dict[str, Any]]:
    """Run the tool, check that every proof holds, and return the rows."""
    file = folder / "sass.json"
    result = run(root, "-m", "benchmarks.kernels.sass", *options, "--json", str(file))
    assert result.returncode == 0, result.stdout + result.stderr
    content = json.loads(file.read_text())
    assert content["failures"] == [] and content["versions"]["triton"] and "kernels.sass" in content["command"]
    rows = list(content["rows"])
    assert len({(row["label"], row["arch"]) for row in rows}) == len(rows)
    return rows


def test_budgets_on_hopper(root: Path, tmp_path: Path) -> None:
    """Steps stay within their budgets of instructions and move all data 16 bytes at a time."""
    rows = {row["label"]: row for row in prove(root, tmp_path, "--arch", "sm_90", "--quick")}
    budgets = {"no noise": 8, "fp32 score": 45, "bf16 score": 48}
    if any(label.endswith(", CUDA") for label in rows):
        budgets |= {f"{form}, CUDA": budgets[form] for form in ("fp32 score", "bf16 score")}
        budgets |= {"no noise, fp32 score, CUDA": 8, "no noise, bf16 score, CUDA": 8}
    for label, budget in [(f"{step}, {form}", budget) for step in STEPS for form, budget in budgets.items()]:
        row = rows[label]
        assert row["per_element"] <= row["budget"] == budget
        assert row["widest"] == 128 and row["narrow_share"] == 0
        assert row["spills"] == row["local"] == row["shared"] == row["barriers"] == 0


def test_other_architectures(root: Path, tmp_path: Path) -> None:
    """The kernels compile for the generations before and after Hopper."""
    rows = prove(root, tmp_path, "--arch", "sm_80", "--arch", "sm_100", "--only", "normal, fast")
    assert {row["arch"] for row in rows} == {"sm_80", "sm_100"}
    assert all(row["spills"] == 0 and row["widest"] == 128 for row in rows)


@pytest.mark.slow
def test_everything(root: Path, tmp_path: Path) -> None:
    """Every form of every kernel for every architecture."""
    assert {row["arch"] for row in prove(root, tmp_path)} == {"sm_80", "sm_90", "sm_100"}


def test_a_proof_can_fail(root: Path) -> None:
    """Spills, local memory, an exceeded budget and narrow accesses are each reported."""
    code = """
from benchmarks.kernels import sass
row = sass.Row("form", "sm_90", 32, 1, 8, 0, 400, 50.0, 45.0, 32, 32, 0, 1.0)
print(*row.failures(), sep="\\n")
"""
    assert run(root, "-c", code).stdout.splitlines() == [
        "1 spills and 8 bytes of local memory",
        "50.0 instructions per element, the budget is 45",
        "100% of the data is accessed in units of less than 16 bytes",
    ]
