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
    from scoresde_fast.bench.results import rounded  # here: `rehearse` runs where the package is not installed

    return rounded(value, DIGITS)


class Report:
    """The figures and cases of an item.  Each addition rewrites the file, so a killed item loses no results.

    Args:
        path: the file; None keeps the results in memory only.
        known: figures of earlier items.

    Attributes:
        results: the printed ``figures`` (name -> value), and ``cases`` (label -> measurements), which are not printed.
            `outcome` adds ``passed`` and ``worst``; leaving the ``with`` block adds ``seconds``.
    """

    def __init__(self, path: Path | None = None, known: dict[str, Any] | None = None) -> None:
        self._path, self.known = path, known or {}
        self.results: dict[str, Any] = {"figures": {}, "cases": {}}

    def __enter__(self) -> Report:
        self._begin = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.results["seconds"] = round(time.perf_counter() - self._begin, 1)
        self._write()

    def figure(self, name: str, value: Any) -> None:
        """Add a figure, which is printed."""
        self.results["figures"][name] = _rounded(value)
        self._write()

    def target(self, name: str, value: Any, of: str = "") -> None:
        """Add the figure of the target ``name`` in `TARGETS`; ``of`` is the measured case, if there are several."""
        assert name in TARGETS, name
        self.figure(f"{name}, {of}" if of else name, value)

    def case(self, label: str, measured: dict[str, Any]) -> None:
        """Add measurements to the case with this label."""
        self.results["cases"].setdefault(label, {}).update(_rounded(measured))
        self._write()

    def outcome(self, passed: bool, worst: dict[str, float]) -> None:
        """Set the outcome of checks: whether all passed, and the largest ratio of error to allowed error per label."""
        self.results |= {"passed": passed, "worst": _rounded(worst)}
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            temporary = self._path.with_suffix(".part")
            temporary.write_text(json.dumps(self.results))
            temporary.replace(self._path)


def summary(name: str, results: dict[str, Any], limit: int = 200) -> str:
    """Return an item's outcome, seconds and figures in at most ``limit`` characters."""
    status = "ok" if results.get("passed", "error" not in results) else "FAILED"
    parts = [f"{name}: {status}, {results.get('seconds', 0):.0f} s", *_details(results)]
    return _cut("; ".join(parts), limit)


def _details(results: dict[str, Any]) -> Iterable[str]:
    if "error" in results:
        yield _cut(" ".join(results["error"].split()), 160)
    if results.get("doubts"):
        yield f"in doubt, because these checks failed: {', '.join(results['doubts'])}"
    if not results.get("passed", True):
        yield ", ".join(f"{label} {ratio}" for label, ratio in results.get("worst", {}).items() if not ratio <= 1)
    for name, value in results.get("figures", {}).items():
        yield f"{name} {value}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
