# SPDX-License-Identifier: Apache-2.0
"""Wild calls of the operators, in a process of their own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scoresde_fast import _extension
from tests.ops import fuzz

pytestmark = pytest.mark.skipif(_extension.why_missing is not None, reason="there is no extension")


def run(code: list[str], root: Path) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    path = {"PYTHONPATH": os.environ.get("PYTHONPATH") or str(root)}
    return subprocess.run([sys.executable, *code], cwd=root, env=variables | path, capture_output=True, text=True)


def test_wild_calls_return_or_raise(root: Path, tmp_path: Path) -> None:
    """A few hundred calls with arguments drawn from the schemas end in a result or an error, and reach every operator.

    A crash ends only the process of the calls, and the failure names the call.
    """
    under_way = tmp_path / "call.txt"
    done = run(["-m", "tests.ops.fuzz", "300", str(under_way)], root)
    assert done.returncode == 0, f"{done.stderr[-3000:]}\nThe last call: {under_way.read_text()}"
    outcomes = json.loads(done.stdout.splitlines()[-1])
    assert set(outcomes) == set(fuzz.operators())
    assert {name for name, counts in outcomes.items() if not counts["refused"]} == set()
    # More calls return from every operator; `make sanitize` makes them.
    assert sum(counts["returned"] > 0 for counts in outcomes.values()) > len(outcomes) / 2


def test_a_new_operator_is_fuzzed_and_its_crash_named(root: Path, tmp_path: Path) -> None:
    """An operator that nobody listed is called, and when it ends the process, the file holds the call that did."""
    under_way = tmp_path / "call.txt"
    code = f"""
import os, pathlib, torch
from tests.ops import fuzz
library = torch.library.Library("scoresde_fast", "FRAGMENT")
library.define("crash(Tensor x, int new) -> Tensor")
library.impl("crash", lambda x, new: os._exit(7), "CPU")
fuzz.operators = lambda: ["scoresde_fast::crash"]
fuzz.main(600, pathlib.Path({str(under_way)!r}))
"""
    assert run(["-c", code], root).returncode == 7
    names = {"Call": fuzz.Call, "TensorOf": fuzz.TensorOf, "SameAs": fuzz.SameAs, "inf": math.inf, "nan": math.nan}
    call = eval(under_way.read_text(), names)
    assert call.operator == "scoresde_fast::crash" and isinstance(call.made_arguments()[0], torch.Tensor)
