# SPDX-License-Identifier: Apache-2.0
"""The results of one item of the visit to a GPU, in a file from its first figure on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.tables import TARGETS
from scoresde_fast.bench.results import rounded

DIGITS = 4
"""Significant digits of the figures."""


class Report:
    """Figures and cases of an item.  Each call writes the file anew, so an item that is stopped loses nothing.

    Args:
        path: the file; None keeps everything in memory.
        known: the figures of earlier items.

    Attributes:
        found: ``figures``, name -> value, which are printed; ``cases``, label -> what was measured, which are not; and
            after `outcome` ``passed``; and at the end of a ``with`` its ``seconds``.
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
        """Add a value that is printed."""
        self.found["figures"][name] = rounded(value, DIGITS)
        self._write()

    def target(self, name: str, value: Any, of: str = "") -> None:
        """Add the figure of one of `TARGETS`, or of the case ``of`` of one."""
        assert name in TARGETS, name
        self.figure(f"{name}, {of}" if of else name, value)

    def case(self, label: str, measured: dict[str, Any]) -> None:
        """Add a measurement, or more values to the one with this label."""
        self.found["cases"].setdefault(label, {}).update(rounded(measured, DIGITS))
        self._write()

    def outcome(self, passed: bool, worst: dict[str, float]) -> None:
        """Set the outcome of checks: whether all passed, and by label the worst error over the allowed one."""
        self.found |= {"passed": passed, "worst": rounded(worst, DIGITS)}
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            whole = self._path.with_suffix(".part")
            whole.write_text(json.dumps(self.found))
            whole.replace(self._path)


def line(name: str, found: dict[str, Any], most: int = 200) -> str:
    """Return an item's outcome, seconds and figures in at most ``most`` characters."""
    said = "ok" if found.get("passed", "error" not in found) else "FAILED"
    parts = [f"{name}: {said}, {found.get('seconds', 0):.0f} s", *_told(found)]
    return _cut("; ".join(parts), most)


def _told(found: dict[str, Any]) -> Iterable[str]:
    if "error" in found:
        yield _cut(" ".join(found["error"].split()), 160)
    if found.get("doubts"):
        yield f"in doubt, for a check failed: {', '.join(found['doubts'])}"
    if not found.get("passed", True):
        yield ", ".join(f"{label} {ratio}" for label, ratio in found.get("worst", {}).items() if not ratio <= 1)
    for name, value in found.get("figures", {}).items():
        yield f"{name} {value}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
