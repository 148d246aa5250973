# SPDX-License-Identifier: Apache-2.0
"""A run's structure: which rows of its table are alike, and which short pattern of rows comes again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

LONGEST = 8
"""Rows of the longest pattern that is looked for."""


class RowKind(NamedTuple):
    """All that the loop's Python code asks of a row; everything else of it is a number in a device table.

    ``saves``: the row reads or writes the saved state.  ``earlier``: how many derived outputs of earlier evaluations
    it reads.
    """

    evaluates: bool
    langevin: bool
    noise: bool
    saves: bool
    earlier: int


Pattern = tuple[RowKind, ...]


@dataclass(frozen=True)
class Phase:
    """Consecutive rows: ``repeats`` times the rows of ``pattern``."""

    pattern: Pattern
    repeats: int


def split(kinds: Sequence[RowKind]) -> list[Phase]:
    """The phases of a run in order: at each row the pattern whose repetitions reach furthest, the shortest of those.

    Rows that begin no repetition are joined into patterns that run once.
    """
    phases: list[Phase] = []
    alone: list[RowKind] = []
    start = 0
    while start < len(kinds):
        reached = {period: period * _repeats(kinds, start, period) for period in range(1, LONGEST + 1)}
        period = max(reached, key=lambda period: (reached[period] > period, reached[period], -period))
        if reached[period] == period:
            alone.append(kinds[start])
            start += 1
        else:
            phases += _once(alone)
            alone = []
            phases.append(Phase(tuple(kinds[start : start + period]), reached[period] // period))
            start += reached[period]
    return phases + _once(alone)


def _repeats(kinds: Sequence[RowKind], start: int, period: int) -> int:
    """How often the ``period`` rows at ``start`` come one after the other; 1 where they do not come again."""
    pattern = kinds[start : start + period]
    count, at = 1, start + period
    while len(pattern) == period and kinds[at : at + period] == pattern:
        count, at = count + 1, at + period
    return count


def _once(rows: Sequence[RowKind]) -> list[Phase]:
    return [Phase(tuple(rows[start : start + LONGEST]), 1) for start in range(0, len(rows), LONGEST)]
