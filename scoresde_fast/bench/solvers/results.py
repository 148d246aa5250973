# SPDX-License-Identifier: Apache-2.0
"""The comparison's result on the disk: written after every line, gone on with by the next call."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scoresde_fast.bench.rounding import write_json
from scoresde_fast.bench.solvers.contender import Case

CASE_KEYS = tuple(Case.__dataclass_fields__)
LINE_KEYS = (
    *CASE_KEYS,
    "digest",
    "steps",
    "nfe",
    "seconds_per_1000",
    "timed",
    "quality",
    "standard_error",
    "half_differences",
    "more",
    "flow_error",
    "diverged",
)
"""Of a line. ``diverged`` is None, or says where, and then there is no quality. ``timed`` is the number of rounds of
which ``seconds_per_1000`` is the median; where that is 0, it is None."""
UNTIMED: dict[str, Any] = {"seconds_per_1000": None, "timed": 0}

WRITE_EVERY = 2.0
"""Seconds: a line that took as long is on the disk before the next begins."""


def case_dict(case: Case) -> dict[str, Any]:
    """As JSON holds it."""
    return json.loads(json.dumps(asdict(case)))


class Results:
    """What is measured so far.

    Args:
        same: what must be the same for lines to be comparable: the model, its weights, the samples, the device.
        path: where it is kept; None: nowhere.

    Attributes:
        lines: what was measured, as `LINE_KEYS`.
        timed_on: where the times among them were taken, and by what batches; None: there is none.

    Raises:
        ValueError: ``path`` holds something else, or lines of another model, of other samples or of another device.
    """

    def __init__(self, same: dict[str, Any], path: Path | None) -> None:
        self.path = path
        self._written = 0.0
        self.lines: list[dict[str, Any]] = []
        self.timed_on: dict[str, Any] | None = None
        if path is None or not path.exists():
            return
        try:
            kept = json.loads(path.read_text())
            self.lines, self.timed_on = kept["lines"], kept["timed_on"]
            there = {key: kept[key] for key in same}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{str(path)!r} holds no result of this command: choose another --out or remove it"
            ) from None
        for key, value in same.items():
            if there[key] != value:
                raise ValueError(
                    f"{str(path)!r} has {key} {there[key]!r}, this run has {value!r}: choose another --out or remove it"
                )

    def find(self, digest: str, case: Case | None = None) -> dict[str, Any] | None:
        """A line of the same method, and of the case where one is given."""
        wanted = {**({} if case is None else case_dict(case)), "digest": digest}
        return next((line for line in self.lines if all(line[key] == wanted[key] for key in wanted)), None)

    def add(self, line: dict[str, Any]) -> None:
        """Keep a line in the place of the one of the same case."""
        self.lines = [kept for kept in self.lines if any(kept[key] != line[key] for key in CASE_KEYS)] + [line]

    def put_times(self, times: Mapping[str, tuple[float, int]], timed_on: dict[str, Any]) -> None:
        """Give lines their seconds for 1000 samples and the rounds behind these, by digest.

        Other lines keep the times that they have, unless those were not taken on the same.
        """
        for line in self.lines:
            if line["digest"] in times:
                line["seconds_per_1000"], line["timed"] = times[line["digest"]]
            elif timed_on != self.timed_on:
                line.update(UNTIMED)
        self.timed_on = timed_on

    def write(self, result: Callable[[], dict[str, Any]], *, now: bool = False) -> None:
        """All of ``result()``, where there is a place to keep it; lines that follow fast share a write."""
        if self.path is not None and (now or time.monotonic() - self._written >= WRITE_EVERY):
            write_json(result(), self.path)
            self._written = time.monotonic()
