# SPDX-License-Identifier: Apache-2.0
"""The ranking of measured cases: Pareto fronts, ties, timing and the reference."""

from __future__ import annotations

import math
from typing import Any

from scoresde_fast.bench.ranking import Best, MeasuredCase, pareto_front, rank


def case(name: str, nfe: int, quality: float, **changes: Any) -> MeasuredCase:
    """A measured case; its halves differ by 0.02."""
    known: dict[str, Any] = {"digest": "", "nfe": nfe, "budget": nfe, "quality": quality, "standard_error": 0.01}
    known |= {"half_differences": [0.02, -0.02], "seconds_per_1000": nfe / 10, "timed": 3}
    return MeasuredCase(name, name, True, **known | changes)


def test_pareto_front() -> None:
    """A case is on the front if none at its cost or below is as good; the reference and diverged cases are not."""
    cases = [
        case("a", 10, 0.5),
        case("b", 5, 0.9),
        case("c", 20, 0.6),
        case("d", 20, 0.4),
        case("e", 10, 0.7),
        case("f", 1, math.inf),
        case("g", 2, 0.1, reference=True),
    ]
    assert pareto_front(cases, "nfe") == [1, 0, 3]


def test_ties_are_named_and_the_cheapest_of_them() -> None:
    """Each limit has its best case, those tied with it, and the cheapest of them."""
    varied = {"half_differences": [-0.02, 0.02]}  # chance moves it against the others: the error of a difference is .02
    cases = [case("a", 10, 0.53, **varied), case("b", 10, 0.6, **varied), case("a", 20, 0.5), case("c", 25, 0.5041)]
    found = rank(cases, (5, 10, 20, 25))
    assert found.by_nfe == [Best(10, 0, [], 0), Best(20, 2, [], 0), Best(25, 2, [], 0)]
    assert rank(cases, (25,), chance=0.55).by_nfe == [Best(25, 2, [3], 0)]
    assert rank(cases, (25,), chance=0.55).sentences[0] == (
        "Best within 25 evaluations: a, 0.5 ± 0.01 at 20 NFE and 2 s for 1000. Indistinguishable from it: c. "
        "At the least cost: a, 0.53 ± 0.01 at 10 NFE and 1 s for 1000."
    )
    assert [best.limit for best in found.by_seconds] == [1, 2], "a limit at which nothing changes says nothing"


def test_lines_without_time_are_in_nothing_about_time() -> None:
    """They compete by evaluations only, and the ranking says how many they are, unless no case is timed."""
    cases = [case("a", 10, 0.5), case("b", 10, 0.4, seconds_per_1000=None, timed=0), case("c", 20, 0.3)]
    found = rank(cases, (10, 20))
    assert found.by_nfe[0].best == 1 and found.by_seconds[0].best == 0
    assert found.fronts == {"nfe": [1, 2], "seconds_per_1000": [0, 2]}
    assert found.sentences[0] == "Best within 10 evaluations: b, 0.4 ± 0.01 at 10 NFE."
    assert found.sentences[-1].startswith("Of 3 candidates 2 were timed;")
    untimed = rank([cases[1]], (10,))
    assert untimed.by_seconds == [] and untimed.fronts["seconds_per_1000"] == [] and len(untimed.sentences) == 1


def test_the_reference_measures_the_others() -> None:
    """The best of each budget is a factor of the reference's distance; the first case within a tenth of it is named."""
    reference = case("ancestral, 1000 steps", 1000, 0.5, reference=True, budget=None)
    cases = [reference, case("a", 10, 0.8), case("a", 20, 0.54)]
    told = rank(cases, (10, 20)).sentences[-1]
    assert "1.6 times it within 10, 1.08 times it within 20 evaluations." in told
    assert told.endswith("Within 10% of it, at the fewest evaluations: a, 0.54 ± 0.01 at 20 NFE and 2 s for 1000.")
    assert rank(cases[:2], (10, 20)).sentences[-1].endswith("Within 10% of it, none.")
