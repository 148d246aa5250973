# SPDX-License-Identifier: Apache-2.0
"""What `portability.py` and `matrix.py` share: their command line, and the outcome of a run of pytest."""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar


class Named(Protocol):
    """A row of a table of runs."""

    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=Named)


def parse(description: str, rows: Sequence[Row]) -> tuple[list[Row], Path | None, list[str]]:
    """The rows that the command line asks for, the file for the results, and the test files; [] stands for all."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name contains this")
    parser.add_argument("--json", type=Path, help="write the results to this file after every row")
    parser.add_argument("tests", nargs="*", help="test files; all of them if none is given")
    options = parser.parse_args()
    chosen = [row for row in rows if options.only.lower() in row.name.lower()]
    if not chosen:
        parser.error(f"no row has {options.only!r} in its name; there are: {', '.join(row.name for row in rows)}")
    return chosen, options.json, options.tests


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
