# SPDX-License-Identifier: Apache-2.0
"""The phases of a program's rows."""

from __future__ import annotations

import pytest

from scoresde_fast.loop.program import Phase, RowKind, split

A, B, C, D = (RowKind(True, False, False, False, earlier) for earlier in range(4))


@pytest.mark.parametrize(
    ("kinds", "phases"),
    [
        ([], []),
        ([A], [((A,), 1)]),
        ([A, A, A], [((A,), 3)]),
        ([A, B] * 4, [((A, B), 4)]),
        ([A, B] * 4 + [A, C], [((A, B), 4), ((A, C), 1)]),
        ([A, B, C, *[D] * 5], [((A, B, C), 1), ((D,), 5)]),
        ([A, A, B] * 3, [((A, A, B), 3)]),
        ([A, A, B] * 3 + [C], [((A, A, B), 3), ((C,), 1)]),
        ([A, B, C, D, *[A] * 3], [((A, B, C, D), 1), ((A,), 3)]),
    ],
    ids=lambda value: "-".join("ABCD"[k.earlier] for k in value if isinstance(k, RowKind)) or None,
)
def test_phases(kinds: list[RowKind], phases: list[tuple[tuple[RowKind, ...], int]]) -> None:
    """Repetitions are found, preferring patterns that cover most rows, then short ones; other rows run once."""
    assert split(kinds) == [Phase(*phase) for phase in phases]
