# SPDX-License-Identifier: Apache-2.0
"""Results of one item of a GPU visit, saved after every addition."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.tables import TARGETS

DIGITS = 4
"""Significant digits of the figures."""


def _rounded(value: Any) -> Any:
    from scoresde_fast.bench.results import rounded  # here, so that `rehearse` runs where the package is not installed

    return rounded(value, DIGITS)


class Report:
    """Figures and cases of an item.  Each call rewrites the file, so that an item that is killed loses nothing.

    Args:
        path: the file; None keeps the results in memory only.
        known: figures of earlier items.

    Attributes:
        found: the results: ``figures`` (name -> value), which are printed; ``cases`` (label -> measurements), which are
            not; after `outcome`, ``passed`` and ``worst``; and after a ``with`` block its ``seconds``.
    """

    def __init__(self, path: Path | None = None, known: dict[str, Any] | None = None) -> None:
        self._path, self.known = path, known or {}
        self.found: dict[str, Any] = {"figures": {}, "cases": {}}

    def __enter__(self) -> Report:
        self._begin = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.found["seconds"] = round(time.perf_counter() - self._begin, 1)
        self._write()

    def figure(self, name: str, value: Any) -> None:
        """Add a figure, which is printed."""
        self.found["figures"][name] = _rounded(value)
        self._write()

    def target(self, name: str, value: Any, of: str = "") -> None:
        """Add the figure of a target of `TARGETS`, optionally for a case ``of`` it."""
        assert name in TARGETS, name
        self.figure(f"{name}, {of}" if of else name, value)

    def case(self, label: str, measured: dict[str, Any]) -> None:
        """Add measurements to the case with this label."""
        self.found["cases"].setdefault(label, {}).update(_rounded(measured))
        self._write()

    def outcome(self, passed: bool, worst: dict[str, float]) -> None:
        """Set the outcome of checks: whether all passed, and the largest ratio of error to allowed error per label."""
        self.found |= {"passed": passed, "worst": _rounded(worst)}
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            temporary = self._path.with_suffix(".part")
            temporary.write_text(json.dumps(self.found))
            temporary.replace(self._path)


def line(name: str, found: dict[str, Any], most: int = 200) -> str:
    """Return an item's outcome, seconds and figures in at most ``most`` characters."""
    status = "ok" if found.get("passed", "error" not in found) else "FAILED"
    parts = [f"{name}: {status}, {found.get('seconds', 0):.0f} s", *_details(found)]
    return _cut("; ".join(parts), most)


def _details(found: dict[str, Any]) -> Iterable[str]:
    if "error" in found:
        yield _cut(" ".join(found["error"].split()), 160)
    if found.get("doubts"):
        yield f"in doubt, because these checks failed: {', '.join(found['doubts'])}"
    if not found.get("passed", True):
        yield ", ".join(f"{label} {ratio}" for label, ratio in found.get("worst", {}).items() if not ratio <= 1)
    for name, value in found.get("figures", {}).items():
        yield f"{name} {value}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
