# SPDX-License-Identifier: Apache-2.0
"""Tests of the ranking: Pareto fronts, ties, timing and the reference."""

from __future__ import annotations

import math
from typing import Any

from scoresde_fast.bench.ranking import Best, MeasuredCase, pareto_front, rank


def case(name: str, nfe: int, quality: float, **changes: Any) -> MeasuredCase:
    """Return a measured case whose halves differ by 0.02."""
    values: dict[str, Any] = {"digest": "", "nfe": nfe, "budget": nfe, "quality": quality, "standard_error": 0.01}
    values |= {"half_differences": [0.02, -0.02], "seconds_per_1000": nfe / 10, "timed": 3}
    return MeasuredCase(name, name, probability_flow=True, **values | changes)


def test_pareto_front() -> None:
    """The front has the cases that no case of the same or lower cost beats, without reference and diverged cases."""
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


def test_ties_and_the_cheapest_of_them() -> None:
    """Each limit has its best case, the cases tied with it, and the cheapest of them."""
    varied = {"half_differences": [-0.02, 0.02]}  # opposite to the others: the error of a difference is 0.02
    cases = [case("a", 10, 0.53, **varied), case("b", 10, 0.6, **varied), case("a", 20, 0.5), case("c", 25, 0.5041)]
    ranking = rank(cases, (5, 10, 20, 25))
    assert ranking.by_nfe == [Best(10, 0, [], 0), Best(20, 2, [], 0), Best(25, 2, [], 0)]
    assert [sentence.partition(":")[0] for sentence in ranking.sentences if "evaluations" in sentence] == [
        "Best within 10 evaluations",
        "Best within 20 evaluations",
    ], "nothing changes at 25"
    assert rank(cases, (25,), chance=0.55).by_nfe == [Best(25, 2, [3], 0)]
    assert rank(cases, (25,), chance=0.55).sentences[0] == (
        "Best within 25 evaluations: a, 0.5 ± 0.01 at 20 NFE and 2 s for 1000. Tied with it: c. "
        "Cheapest of these: a, 0.53 ± 0.01 at 10 NFE and 1 s for 1000."
    )
    assert [best.limit for best in ranking.by_seconds] == [1, 2], "limits with the same best case must be omitted"


def test_cases_without_time_compete_by_evaluations_only() -> None:
    """Rankings by time omit cases without time; a sentence gives the number of timed cases, unless it is 0."""
    cases = [case("a", 10, 0.5), case("b", 10, 0.4, seconds_per_1000=None, timed=0), case("c", 20, 0.3)]
    ranking = rank(cases, (10, 20))
    assert ranking.by_nfe[0].best == 1 and ranking.by_seconds[0].best == 0
    assert ranking.fronts == {"nfe": [1, 2], "seconds_per_1000": [0, 2]}
    assert ranking.sentences[0] == "Best within 10 evaluations: b, 0.4 ± 0.01 at 10 NFE."
    assert ranking.sentences[-1].startswith("2 of 3 candidates were timed;")
    untimed = rank([cases[1]], (10,))
    assert untimed.by_seconds == [] and untimed.fronts["seconds_per_1000"] == [] and len(untimed.sentences) == 1


def test_comparison_with_the_reference() -> None:
    """A sentence gives each budget's best distance relative to the reference, and the cheapest case within 10 %."""
    reference = case("ancestral, 1000 steps", 1000, 0.5, reference=True, budget=None)
    cases = [reference, case("a", 10, 0.8), case("a", 20, 0.54)]
    sentence = rank(cases, (10, 20)).sentences[-1]
    assert "as a multiple of its distance: 1.6 (at most 10 NFE), 1.08 (at most 20 NFE)." in sentence
    cheapest = "Cheapest within 10% of the reference: a, 0.54 ± 0.01 at 20 NFE and 2 s for 1000."
    assert sentence.endswith(cheapest)
    assert rank(cases[:2], (10, 20)).sentences[-1].endswith("No case is within 10% of the reference.")
