# SPDX-License-Identifier: Apache-2.0
"""Tables of pytest runs: their command line, test counts and results file."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ElementTree
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar


class Named(Protocol):
    """A row of a table of runs."""

    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=Named)


def main(
    description: str | None,
    rows: Sequence[Row],
    out: Path,
    run: Callable[[Row, list[str]], dict[str, Any]],
    header: Callable[[], dict[str, Any]],
) -> int:
    """Run, print and save the selected rows; return 1 if a test failed or the extension was not loaded.

    Args:
        description: description for ``--help``.
        rows: all rows.
        out: default results file; a run of selected test files is not saved there.
        run: runs test files, or all if [], for a row; returns its results and, as ``summary``, the text to print.
        header: returns the other entries of the results file.
    """
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only the row with this name, or all rows whose name contains it"
    )
    parser.add_argument("--json", type=Path, help=f"save the results in this file instead of {out.name}")
    parser.add_argument("tests", nargs="*", help="test files; default: all")
    options = parser.parse_args()
    selected = [row for row in rows if row.name == options.only]
    selected = selected or [row for row in rows if options.only.lower() in row.name.lower()]
    if not selected:
        parser.error(f"no row has {options.only!r} in its name; choose from: {', '.join(row.name for row in rows)}")
    file = options.json or (None if options.tests else out)
    failed = False
    for row in selected:
        result = run(row, options.tests)
        failures = [f"    FAILED {name}" for name in result.get("failures", [])]
        print(result.pop("summary"), *failures, sep="\n", flush=True)
        failed |= bool(result.get("failed")) or result.get("extension") not in (None, "loaded")
        if file:
            save_row(file, rows, result, header())
    return int(failed)


def save_row(out: Path, rows: Sequence[Named], result: dict[str, Any], header: dict[str, Any]) -> None:
    """Save the results of one row in the file, without changing the other rows.

    Args:
        out: the results file.
        rows: all rows, in order.
        result: the results of the row ``result["name"]``.
        header: the other entries of the file.
    """
    previous = json.loads(out.read_text())["rows"] if out.exists() else []
    results = {row["name"]: row for row in previous} | {result["name"]: {**result, "commit": commit()}}
    out.write_text(
        json.dumps({**header, "rows": [results[row.name] for row in rows if row.name in results]}, indent=1) + "\n"
    )


def commit() -> str:
    """Return the commit of the checkout, with a "*" if tracked files are modified."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=*", "--exclude=*"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or "unknown"


def counts(report: Path) -> dict[str, Any]:
    """Return the numbers of ``passed``, ``failed`` and ``skipped`` tests and the names of ``failures`` in a report."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    failures = sorted(
        f"{case.get('classname', '').removeprefix('tests.')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    )
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(failures) - skipped
    return {"passed": passed, "failed": len(failures), "skipped": skipped, "failures": failures}
