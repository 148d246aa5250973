# SPDX-License-Identifier: Apache-2.0
"""Tables of pytest runs: command line, results of the rows, and the results file."""

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
    """Run the rows selected on the command line, print and save each, and return 1 if a test failed.

    Args:
        description: description for ``--help``.
        rows: all rows.
        out: default results file; a run of selected test files is not saved there.
        run: runs the given test files, or all for [], and returns the results, with the line to print as ``said``.
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
    file, failed = options.json or (None if options.tests else out), False
    for row in selected:
        line = run(row, options.tests)
        print(line.pop("said"), *(f"    FAILED {name}" for name in line.get("failures", [])), sep="\n", flush=True)
        failed |= bool(line.get("failed")) or line.get("extension", "loaded") != "loaded"
        if file:
            keep(file, rows, line, header())
    return int(failed)


def keep(out: Path, rows: Sequence[Named], line: dict[str, Any], header: dict[str, Any]) -> None:
    """Replace a row's results in the file; the other rows are kept.

    Args:
        out: the results file.
        rows: all rows, in order.
        line: the results of the row ``line["name"]``.
        header: the other entries of the file.
    """
    previous = json.loads(out.read_text())["rows"] if out.exists() else []
    lines = {row["name"]: row for row in previous} | {line["name"]: {**line, "commit": commit()}}
    out.write_text(
        json.dumps({**header, "rows": [lines[row.name] for row in rows if row.name in lines]}, indent=1) + "\n"
    )


def commit() -> str:
    """Return the commit of the checkout, with a "*" if tracked files are modified."""
    named = subprocess.run(
        ["git", "describe", "--always", "--dirty=*", "--exclude=*"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return named.stdout.strip() or "unknown"


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
