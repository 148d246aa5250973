# SPDX-License-Identifier: Apache-2.0
"""Seeds: every text names one list, and a mistake is answered with its value."""

from __future__ import annotations

import re

import pytest

from scoresde_fast.generate.seeds import check_seeds, format_seeds, parse_seeds

pytestmark = pytest.mark.same_everywhere


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("7", [7]),
        ("0-3", [0, 1, 2, 3]),
        ("5-5", [5]),
        ("0-2,100,200-201", [0, 1, 2, 100, 200, 201]),
        (" 9, 3-4 ", [9, 3, 4]),
        ("007", [7]),
        (str(2**63 - 1), [2**63 - 1]),
    ],
)
def test_parse(text: str, seeds: list[int]) -> None:
    """Numbers and inclusive ranges are read in the order in which they are written."""
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is neither a number nor a range"),
        ("0-3,", "'' is neither a number nor a range"),
        ("a", "'a' is neither"),
        ("1.5", "'1.5' is neither"),
        ("-3", "'-3' is neither"),
        ("0--3", "'0--3' is neither"),
        ("1-2-3", "'1-2-3' is neither"),
        ("٣", "is neither"),
        ("0-3,9-5", "the range '9-5' is reversed; write 5-9"),
        ("4,1,4", "name 4 twice"),
        ("0-10,5-6,30", "name 5 twice"),
        ("5,0-10", "name 5 twice"),
        (str(2**63), "is too large"),
        ("0-99999999999", "are 100000000000 samples"),
    ],
)
def test_refused(text: str, says: str) -> None:
    """Malformed, negative, reversed, repeated, overlapping and endless seeds are refused, and the part is named."""
    with pytest.raises(ValueError, match=f"{re.escape(repr(text))}.*{re.escape(says)}"):
        parse_seeds(text)


@pytest.mark.parametrize("seeds", [[3], [0, 1, 2], [2, 1, 0], [5, 6, 1, 2, 9], [4, 5, 3]])
def test_format_is_the_inverse(seeds: list[int]) -> None:
    """What a manifest stores is read back as the same list."""
    assert parse_seeds(format_seeds(seeds)) == seeds


def test_format_is_short() -> None:
    """A range is a range, however long."""
    assert format_seeds([*range(50_000), 7_000_000]) == "0-49999,7000000"


@pytest.mark.parametrize(
    ("seeds", "says"), [([], "no seeds"), ([1, -2], "seed -2"), ([4, 5, 4], "seed 4 occurs twice"), ([2**63], "seed 9")]
)
def test_check_refuses(seeds: list[int], says: str) -> None:
    """Lists from Python meet the same rules as the command line."""
    with pytest.raises(ValueError, match=says):
        check_seeds(seeds)
