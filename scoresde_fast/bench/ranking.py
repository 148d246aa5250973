# SPDX-License-Identifier: Apache-2.0
"""Measured cases and their ranking: curves, Pareto fronts, and the best case and its ties within each budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from scoresde_fast.bench.candidates import Case
from scoresde_fast.bench.measures import paired_standard_error

TIE_ERRORS = 2.0
"""Cases are tied if they differ by at most this number of standard errors of their difference."""
MAX_NAMED_TIES = 5
"""Maximum number of ties that a sentence names."""
NEAR_REFERENCE = 1.1
"""A case is near the reference up to this multiple of the reference's quality."""


@dataclass(frozen=True, kw_only=True)
class MeasuredCase(Case):
    """A case and its measurements.

    Attributes:
        digest, steps: as of `Prepared`.
        nfe: mean number of network evaluations a sample.
        seconds_per_1000, timed: seconds for 1000 samples, the median of ``timed`` rounds; None and 0 without timing.
        quality: distance to the data; infinite if the samples diverged.
        standard_error: standard error of the quality.
        half_differences, more: as of `Score`.
        flow_error: for probability-flow solvers, the error to the converged flow; None if it is unknown.
        diverged: the reason if the samples diverged, else None.
    """

    digest: str
    steps: int | None = None
    nfe: float
    seconds_per_1000: float | None = None
    timed: int = 0
    quality: float = math.inf
    standard_error: float = math.inf
    half_differences: list[float] = field(default_factory=list)
    more: dict[str, float] = field(default_factory=dict)
    flow_error: float | None = None
    diverged: str | None = None

    def value(self, name: str) -> float:
        """Return a numeric field by its name, infinite if it was not measured."""
        value: float | None = getattr(self, name)
        return math.inf if value is None else value


@dataclass(frozen=True)
class Best:
    """The best case within a limit of cost; cases are given by their indices in the list of measured cases.

    Attributes:
        limit: network evaluations a sample, or seconds for 1000 samples.
        best: the case with the smallest distance.
        tied: the best case of each other curve that has a case tied with ``best``.
        cheapest: the cheapest case among the best and all cases tied with it.
    """

    limit: float
    best: int
    tied: list[int]
    cheapest: int


@dataclass(frozen=True)
class Ranking:
    """The best cases.

    Attributes:
        by_nfe, by_seconds: the best within each limit; time limits with the same best case as the limit before are
            omitted, and rankings by time omit cases without timing.
        fronts: Pareto front for each cost, "nfe" and "seconds_per_1000", as indices in the list of measured cases.
        sentences: the recommendations.
    """

    by_nfe: list[Best]
    by_seconds: list[Best]
    fronts: dict[str, list[int]]
    sentences: list[str]


def rank(cases: Sequence[MeasuredCase], budgets: Iterable[int], chance: float = 0.0) -> Ranking:
    """Rank measured cases within each budget of network evaluations, and within round time limits.

    Args:
        cases: the measured cases.
        budgets: limits of network evaluations; if a case exceeds all of them, the highest NFE of any case is added.
        chance: as of `Measure`; cases whose quality is below it are tied.
    """
    limits = sorted(set(budgets))
    highest_nfe = max((math.ceil(case.nfe) for case in competing(cases)), default=0)
    if limits and highest_nfe > limits[-1]:
        limits.append(highest_nfe)
    by_nfe = _best_within_limits(cases, "nfe", limits, chance)
    timed = _best_within_limits(cases, "seconds_per_1000", _time_limits(cases), chance)
    by_seconds = [next(same) for _, same in groupby(timed, key=lambda best: best.best)]
    # A larger budget at which nothing changes, perhaps because nothing is measured there yet, needs no sentence.
    changes = [next(same) for _, same in groupby(by_nfe, key=lambda best: (best.best, best.tied, best.cheapest))]
    sentences = [
        *(_recommendation(cases, best, f"{best.limit} evaluations") for best in changes),
        *(_recommendation(cases, best, f"{best.limit:g} s for 1000 samples") for best in by_seconds),
        *_note_on_untimed(cases),
        *_comparison_with_reference(cases, by_nfe),
        *_comparison_with_peers(cases, limits),
    ]
    fronts = {cost: pareto_front(cases, cost) for cost in ("nfe", "seconds_per_1000")}
    return Ranking(by_nfe, by_seconds, fronts, sentences)


def competing(cases: Iterable[MeasuredCase], cost: str = "nfe") -> list[MeasuredCase]:
    """Return the cases with known quality and cost, except the reference."""
    return [case for case in cases if max(case.quality, case.value(cost)) < math.inf and not case.reference]


def best_of_curve(cases: Iterable[MeasuredCase], value: str = "quality") -> dict[str, list[MeasuredCase]]:
    """Return the curves by name: the case with the smallest ``value`` at each budget or tolerance, sorted by NFE."""
    best: dict[tuple[str, int | None, float | None], MeasuredCase] = {}
    for case in competing(cases):
        key = (case.name, case.budget, case.tolerance)
        if case.value(value) < (best[key].value(value) if key in best else math.inf):
            best[key] = case
    curves: dict[str, list[MeasuredCase]] = {}
    for case in sorted(best.values(), key=lambda case: case.nfe):
        curves.setdefault(case.name, []).append(case)
    return curves


def pareto_front(cases: Sequence[MeasuredCase], cost: str) -> list[int]:
    """Return the indices of the cases that no case of the same or a lower cost beats, the cheapest first."""
    front: list[int] = []
    best_quality = math.inf
    for case in sorted(competing(cases, cost), key=lambda case: (case.value(cost), case.quality)):
        if case.quality < best_quality:
            best_quality = case.quality
            front.append(cases.index(case))
    return front


def tied(case: MeasuredCase, other: MeasuredCase, chance: float) -> bool:
    """Return whether two cases cannot be distinguished."""
    error = paired_standard_error(case.half_differences, other.half_differences)
    return abs(case.quality - other.quality) <= TIE_ERRORS * error or max(case.quality, other.quality) <= chance


def _best_within_limits(cases: Sequence[MeasuredCase], cost: str, limits: Sequence[float], chance: float) -> list[Best]:
    """Return the best case within each limit, except limits that no case fits."""
    bests = []
    for limit in limits:
        within = [case for case in competing(cases, cost) if case.value(cost) <= limit]
        within.sort(key=lambda case: case.quality)
        if within:
            ties = [case for case in within if case is within[0] or tied(case, within[0], chance)]
            first_of_curve: dict[str, MeasuredCase] = {}
            for case in ties:
                first_of_curve.setdefault(case.name, case)
            best, *others = (cases.index(case) for case in first_of_curve.values())
            cheapest = min(ties, key=lambda case: case.value(cost))
            bests.append(Best(limit, best, others, cases.index(cheapest)))
    return bests


def _time_limits(cases: Sequence[MeasuredCase]) -> list[float]:
    """Return 1, 2 and 5 times powers of ten, from the shortest time to just above the longest."""
    seconds = [case.value("seconds_per_1000") for case in competing(cases, "seconds_per_1000")]
    if not seconds:
        return []
    powers = range(math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds))) + 1)
    limits = [float(f"{step}e{power}") for power in powers for step in (1, 2, 5)]
    last = next(limit for limit in limits if limit >= max(seconds))
    return [limit for limit in limits if min(seconds) <= limit <= last]


def _recommendation(cases: Sequence[MeasuredCase], best: Best, limit: str) -> str:
    sentence = f"Best within {limit}: {_describe(cases[best.best])}."
    if best.tied:
        names = [str(cases[index]) for index in best.tied]
        if len(names) > MAX_NAMED_TIES:
            names = [*names[:MAX_NAMED_TIES], f"{len(names) - MAX_NAMED_TIES} more"]
        sentence += f" Tied with it: {', '.join(names)}."
    if best.cheapest != best.best:
        sentence += f" Cheapest of these: {_describe(cases[best.cheapest])}."
    return sentence


def _note_on_untimed(cases: Sequence[MeasuredCase]) -> list[str]:
    total, timed = len(competing(cases)), len(competing(cases, "seconds_per_1000"))
    if timed in (0, total):
        return []
    return [f"{timed} of {total} candidates were timed; rankings by time omit the others."]


def _comparison_with_reference(cases: Sequence[MeasuredCase], by_nfe: Sequence[Best]) -> list[str]:
    """Compare the best case within each budget with the reference, and name the cheapest case that is near it."""
    reference = next((case for case in cases if case.reference and case.quality < math.inf), None)
    if reference is None or not by_nfe:
        return []
    factors = [f"{cases[best.best].quality / reference.quality:.3g} (at most {best.limit} NFE)" for best in by_nfe]
    near = [case for case in competing(cases) if case.quality <= NEAR_REFERENCE * reference.quality]
    first = min(near, key=lambda case: (case.nfe, case.quality), default=None)
    margin = f"within {NEAR_REFERENCE - 1:.0%} of the reference"
    return [
        f"The reference is {_describe(reference)}. Best distance as a multiple of its distance: "
        f"{', '.join(factors)}. {f'Cheapest {margin}: {_describe(first)}' if first else f'No case is {margin}'}."
    ]


def _comparison_with_peers(cases: Sequence[MeasuredCase], limits: Sequence[float]) -> list[str]:
    """Compare the best of other libraries within each limit of evaluations with the best of this package."""
    sentences = []
    for value, name in (("quality", "distance"), ("flow_error", "error to the converged flow")):
        factors = []
        for limit in limits:
            within = [case for case in competing(cases) if case.nfe <= limit and case.value(value) < math.inf]
            ours, theirs = ([case for case in within if (case.library is None) is own] for own in (True, False))
            if ours and theirs:
                peer = min(theirs, key=lambda case: case.value(value))
                factor = peer.value(value) / min(case.value(value) for case in ours)
                factors.append(f"{factor:.3g} (at most {limit} NFE: {peer})")
        if factors:
            sentences.append(
                f"Smallest {name} of other libraries' solvers, as a multiple of the smallest of this package's: "
                f"{', '.join(factors)}."
            )
    return sentences


def _describe(case: MeasuredCase) -> str:
    time = "" if case.seconds_per_1000 is None else f" and {case.seconds_per_1000:.3g} s for 1000"
    return f"{case}, {case.quality:.4g} ± {case.standard_error:.2g} at {case.nfe:.4g} NFE{time}"
