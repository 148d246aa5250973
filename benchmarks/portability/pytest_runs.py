# SPDX-License-Identifier: Apache-2.0
"""What `portability.py` and `matrix.py` share: their command line, a run of pytest, and the file of their rows."""

from __future__ import annotations

import argparse
import json
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar


class Named(Protocol):
    """A row of a table of runs."""

    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=Named)


def parse(description: str, rows: Sequence[Row], out: Path) -> tuple[list[Row], Path | None, list[str]]:
    """The rows that the command line asks for, the file for their results, and the test files; [] stands for all.

    The file is ``out`` unless another is named; a part of the tests is no result, and has none.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="the row of this name, or rows whose name has it in it"
    )
    parser.add_argument("--json", type=Path, help=f"keep the results in this file and not in {out.name}")
    parser.add_argument("tests", nargs="*", help="test files; all of them if none is given")
    options = parser.parse_args()
    chosen = [row for row in rows if row.name == options.only]
    chosen = chosen or [row for row in rows if options.only.lower() in row.name.lower()]
    if not chosen:
        parser.error(f"no row has {options.only!r} in its name; there are: {', '.join(row.name for row in rows)}")
    return chosen, options.json or (None if options.tests else out), options.tests


def keep(out: Path, rows: Sequence[Named], line: dict[str, Any], found: dict[str, Any]) -> None:
    """Put a row's results into the file, in place of what an earlier run found in it; the other rows stay.

    Args:
        out: the file.
        rows: all there are, in their order.
        line: the results, of the row that ``line["name"]`` names.
        found: what else the file is to hold.
    """
    before = json.loads(out.read_text())["rows"] if out.exists() else []
    lines = {row["name"]: row for row in before} | {line["name"]: {**line, "commit": commit()}}
    out.write_text(
        json.dumps({**found, "rows": [lines[row.name] for row in rows if row.name in lines]}, indent=1) + "\n"
    )


def commit() -> str:
    """The commit of the checkout, with a star where tracked files differ from it."""
    named = subprocess.run(
        ["git", "describe", "--always", "--dirty=*", "--exclude=*"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return named.stdout.strip() or "unknown"


def counts(report: Path) -> dict[str, Any]:
    """``passed``, ``failed`` and ``skipped`` tests, and ``failures``, the names of those that failed."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    failures = sorted(
        f"{case.get('classname', '').removeprefix('tests.')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    )
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(failures) - skipped
    return {"passed": passed, "failed": len(failures), "skipped": skipped, "failures": failures}
