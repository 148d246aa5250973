# SPDX-License-Identifier: Apache-2.0
"""Reading of benchmarks/results, Markdown tables, and cells that several tables have."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
MODELS = ("digits-ve", "digits-vp", "digits-subvp", "digits-cld")
SHARES = ("recognised", "tint_matches")


def load(name: str) -> dict[str, Any]:
    """Return a result of benchmarks/results."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]
    return [lines[0].replace("|  |", "| |"), *lines[1:]]


def find(rows: Iterable[dict[str, Any]], **values: Any) -> dict[str, Any]:
    """Return the first row with these values; raise StopIteration if there is none."""
    return next(row for row in rows if all(row[name] == value for name, value in values.items()))


def device(result: dict[str, Any]) -> str:
    """Return the name of the device of a result; older results contain only the name."""
    info = result["device"]
    return info if isinstance(info, str) else f"{info['cpu']}, {info['threads']} threads"


def shares(report: dict[str, Any]) -> list[str]:
    """Return a cell for each of `SHARES`."""
    return [f"{report[share]:.1%}" for share in SHARES]


def halves(result: dict[str, Any]) -> str:
    """Return a cell with the distance between halves of the data."""
    return f"{result['frechet_between_halves_of_data']:.2f} (half to half)"
