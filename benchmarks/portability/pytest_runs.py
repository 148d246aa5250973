# SPDX-License-Identifier: Apache-2.0
"""A table of runs of pytest: its command line, its rows' results, and the file that keeps them."""

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
    """Run the rows that the command line asks for, print each and keep it; returns 1 if a test failed.

    Args:
        description: for ``--help``.
        rows: all there are.
        out: the file of the results, unless another is named; a part of the tests is no result and is not kept.
        run: runs the named test files, or all for [], and returns the results with ``said``, a line to print.
        header: what the file holds beside the rows.
    """
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="the row of this name, or all with it in their names"
    )
    parser.add_argument("--json", type=Path, help=f"keep the results in this file and not in {out.name}")
    parser.add_argument("tests", nargs="*", help="test files; all of them if none is given")
    options = parser.parse_args()
    chosen = [row for row in rows if row.name == options.only]
    chosen = chosen or [row for row in rows if options.only.lower() in row.name.lower()]
    if not chosen:
        parser.error(f"no row has {options.only!r} in its name; there are: {', '.join(row.name for row in rows)}")
    file, failed = options.json or (None if options.tests else out), False
    for row in chosen:
        line = run(row, options.tests)
        print(line.pop("said"), *(f"    FAILED {name}" for name in line.get("failures", [])), sep="\n", flush=True)
        failed |= bool(line.get("failed")) or line.get("extension", "loaded") != "loaded"
        if file:
            keep(file, rows, line, header())
    return int(failed)


def keep(out: Path, rows: Sequence[Named], line: dict[str, Any], found: dict[str, Any]) -> None:
    """Put a row's results into the file in place of its earlier ones; the other rows stay.

    Args:
        out: the file.
        rows: all there are, in their order.
        line: the results of the row ``line["name"]``.
        found: the rest of the file.
    """
    before = json.loads(out.read_text())["rows"] if out.exists() else []
    lines = {row["name"]: row for row in before} | {line["name"]: {**line, "commit": commit()}}
    out.write_text(
        json.dumps({**found, "rows": [lines[row.name] for row in rows if row.name in lines]}, indent=1) + "\n"
    )


def commit() -> str:
    """Return the commit of the checkout, with a star if tracked files differ from it."""
    named = subprocess.run(
        ["git", "describe", "--always", "--dirty=*", "--exclude=*"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return named.stdout.strip() or "unknown"


def counts(report: Path) -> dict[str, Any]:
    """Return the numbers of ``passed``, ``failed`` and ``skipped`` tests, and the names of the ``failures``."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    failures = sorted(
        f"{case.get('classname', '').removeprefix('tests.')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    )
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(failures) - skipped
    return {"passed": passed, "failed": len(failures), "skipped": skipped, "failures": failures}
