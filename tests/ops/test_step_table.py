# SPDX-License-Identifier: Apache-2.0
"""Columns of step tables: the same names and indices in Python, in the Triton kernels and in C++."""

from __future__ import annotations

import operator
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from scoresde_fast.ops import step_table
from scoresde_fast.ops.step_table import DeviceTable

pytestmark = pytest.mark.same_everywhere

#: (struct in C++, prefix in the kernels) -> (columns, width).
TABLES: dict[tuple[str, str], tuple[Any, int]] = {
    ("Columns", ""): (step_table.COLUMNS, step_table.WIDTH),
    ("PairColumns", "PAIR_"): (step_table.PAIR_COLUMNS, step_table.PAIR_WIDTH),
    ("LevelColumns", "LEVEL_"): (step_table.LEVELS, step_table.LEVEL_WIDTH),
    ("DotColumns", "DOT_"): (step_table.DOT, step_table.DOT_WIDTH),
    ("ControlColumns", "CONTROL_"): (step_table.CONTROL, len(step_table.CONTROL)),
}


def test_columns_in_cpp(root: Path) -> None:
    """The structs of ``csrc/core/step_table.h`` are the tuples of ``ops/step_table.py`` with their widths."""
    header = (root / "csrc" / "core" / "step_table.h").read_text()
    found: dict[str, dict[str, int]] = {}
    for struct, body in re.findall(r"struct (\w+) \{\s*enum \{([^}]*)\}", header):
        found[struct], number = {}, 0
        for entry in body.split(","):
            name, _, value = (part.strip() for part in entry.partition("="))
            number = int(value) if value else number
            found[struct][name] = number
            number += 1
    assert found == {struct: {**columns._asdict(), "width": width} for (struct, _), (columns, width) in TABLES.items()}


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_columns_in_triton() -> None:
    """The constants of ``kernels/step_table.py`` are the columns of ``ops/step_table.py`` and the widths."""
    constants = vars(import_module("scoresde_fast.kernels.step_table"))
    # Triton's interpreter replaces each constexpr by its value, and adds names that are not integers.
    integers = {name: value for name, value in constants.items() if name.isupper() and hasattr(value, "__index__")}
    found = {name: operator.index(value) for name, value in integers.items()}
    expected: dict[str, int] = {}
    for (_, prefix), (columns, width) in TABLES.items():
        expected |= {f"{prefix}{name.upper()}": number for name, number in columns._asdict().items()}
        expected[f"{prefix}WIDTH"] = width
    assert found == expected


def test_rows() -> None:
    """Rows are indexed with and without a counter; a counter past the end reads the last row."""
    table = DeviceTable(torch.arange(6.0).view(3, 2), torch.arange(9).view(3, 3).int())
    for counter, offset, row in [(None, 1, 1), (torch.tensor([1]), 1, 2), (torch.tensor([7]), 1, 2)]:
        coefficients, control = table.row(counter, offset)
        assert torch.equal(coefficients, table.coefficients[row]) and torch.equal(control, table.control[row])
