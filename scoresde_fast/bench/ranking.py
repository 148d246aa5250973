# SPDX-License-Identifier: Apache-2.0
"""Measured cases and their ranking: curves, Pareto fronts, and the best within each budget with its ties."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from scoresde_fast.bench.candidates import Case
from scoresde_fast.bench.measures import paired_standard_error

TIED = 2.0
"""Cases are tied if they differ by at most this number of standard errors of their difference."""
NAMED = 5
"""The number of ties that a sentence names."""
NEAR = 1.1
"""A case is near the reference up to this factor of its quality."""


@dataclass(frozen=True, kw_only=True)
class MeasuredCase(Case):
    """A case and its figures.

    Attributes:
        digest: of the method; see `Prepared`.
        steps: their number, where it is fixed.
        nfe: mean number of network evaluations of a sample.
        seconds_per_1000, timed: seconds for 1000 samples, the median of ``timed`` rounds; None and 0 without timing.
        quality: the distance to the data; infinite where the samples diverged.
        standard_error: of the quality.
        half_differences, more: as of `Score`.
        flow_error: of a deterministic solver, the error to the converged probability flow, where that is known.
        diverged: the reason, where the samples diverged.
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
        """Return a field that is a number, infinite where it was not measured."""
        found: float | None = getattr(self, name)
        return math.inf if found is None else found


@dataclass(frozen=True)
class Best:
    """The best case within a limit of cost; cases are places in the list of measured cases.

    Attributes:
        limit: network evaluations of a sample, or seconds for 1000 samples.
        best: the case of least distance.
        tied: of every other curve, the best case that cannot be distinguished from it.
        cheapest: the cheapest of the best and all cases tied with it.
    """

    limit: float
    best: int
    tied: list[int]
    cheapest: int


@dataclass(frozen=True)
class Ranking:
    """The best cases.

    Attributes:
        by_nfe, by_seconds: within each limit; limits of time at which nothing changes are left out. Cases without
            timing are missing in all that concerns time.
        fronts: by the field that is the cost, the Pareto front as places in the list of measured cases.
        sentences: the recommendations.
    """

    by_nfe: list[Best]
    by_seconds: list[Best]
    fronts: dict[str, list[int]]
    sentences: list[str]


def rank(cases: Sequence[MeasuredCase], budgets: Iterable[int], chance: float = 0.0) -> Ranking:
    """Rank measured cases within each budget of evaluations, and within round limits of time.

    Args:
        cases: the measured cases.
        budgets: limits of network evaluations; the largest number that a case took is added.
        chance: as of `Measure`: cases below it are tied.
    """
    limits = sorted(set(budgets))
    most = max((math.ceil(case.nfe) for case in competing(cases)), default=0)
    if limits and most > limits[-1]:
        limits.append(most)
    by_nfe = _bests(cases, "nfe", limits, chance)
    by_seconds: list[Best] = []
    for found in _bests(cases, "seconds_per_1000", _time_limits(cases), chance):
        if not by_seconds or found.best != by_seconds[-1].best:
            by_seconds.append(found)
    sentences = [
        *(_recommendation(cases, found, f"{found.limit} evaluations") for found in by_nfe),
        *(_recommendation(cases, found, f"{found.limit:g} s for 1000 samples") for found in by_seconds),
        *_untimed(cases),
        *_against_reference(cases, by_nfe),
    ]
    fronts = {cost: pareto_front(cases, cost) for cost in ("nfe", "seconds_per_1000")}
    return Ranking(by_nfe, by_seconds, fronts, sentences)


def competing(cases: Iterable[MeasuredCase], cost: str = "nfe") -> list[MeasuredCase]:
    """Return the cases of known quality and cost, without the reference."""
    return [case for case in cases if max(case.quality, case.value(cost)) < math.inf and not case.reference]


def best_of_curve(cases: Iterable[MeasuredCase], value: str = "quality") -> dict[str, list[MeasuredCase]]:
    """Return the curves by name: for each budget or tolerance the case of least ``value``, in order of evaluations."""
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
    """Return the places of the cases that no other beats at the same or a lower cost, the cheapest first."""
    front: list[int] = []
    reached = math.inf
    for case in sorted(competing(cases, cost), key=lambda case: (case.value(cost), case.quality)):
        if case.quality < reached:
            reached = case.quality
            front.append(cases.index(case))
    return front


def tied(case: MeasuredCase, other: MeasuredCase, chance: float = 0.0) -> bool:
    """Return whether two cases cannot be distinguished."""
    error = paired_standard_error(case.half_differences, other.half_differences)
    apart = abs(case.quality - other.quality) > TIED * error
    return not apart or max(case.quality, other.quality) <= chance


def _bests(cases: Sequence[MeasuredCase], cost: str, limits: Sequence[float], chance: float) -> list[Best]:
    """Return the best case within each limit that a case keeps to."""
    found = []
    for limit in limits:
        within = [case for case in competing(cases, cost) if case.value(cost) <= limit]
        within.sort(key=lambda case: case.quality)
        if within:
            equal = [case for case in within if case is within[0] or tied(case, within[0], chance)]
            first: dict[str, MeasuredCase] = {}
            for case in equal:
                first.setdefault(case.name, case)
            best, *others = (cases.index(case) for case in first.values())
            cheapest = min(equal, key=lambda case: case.value(cost))
            found.append(Best(limit, best, others, cases.index(cheapest)))
    return found


def _time_limits(cases: Sequence[MeasuredCase]) -> list[float]:
    """Return 1, 2 and 5 times powers of ten, from the shortest to just above the longest time."""
    took = [case.value("seconds_per_1000") for case in competing(cases, "seconds_per_1000")]
    if not took:
        return []
    powers = range(math.floor(math.log10(min(took))), math.ceil(math.log10(max(took))) + 1)
    limits = [float(f"{step}e{power}") for power in powers for step in (1, 2, 5)]
    covering = next(limit for limit in limits if limit >= max(took))
    return [limit for limit in limits if min(took) <= limit <= covering]


def _recommendation(cases: Sequence[MeasuredCase], found: Best, limit: str) -> str:
    sentence = f"Best within {limit}: {_with_figures(cases[found.best])}."
    if found.tied:
        names = [str(cases[place]) for place in found.tied]
        if len(names) > NAMED:
            names = [*names[:NAMED], f"{len(names) - NAMED} more"]
        sentence += f" Indistinguishable from it: {', '.join(names)}."
    if found.cheapest != found.best:
        sentence += f" At the least cost: {_with_figures(cases[found.cheapest])}."
    return sentence


def _untimed(cases: Sequence[MeasuredCase]) -> list[str]:
    total, timed = len(competing(cases)), len(competing(cases, "seconds_per_1000"))
    if timed in (0, total):
        return []
    return [f"Of {total} candidates {timed} were timed; rankings by time leave out the others."]


def _against_reference(cases: Sequence[MeasuredCase], by_nfe: Sequence[Best]) -> list[str]:
    """Compare the best of each budget with the reference, and name the first case that is near it."""
    reference = next((case for case in cases if case.reference and case.quality < math.inf), None)
    if reference is None or not by_nfe:
        return []
    bests = [(found.limit, cases[found.best]) for found in by_nfe]
    factors = [f"{case.quality / reference.quality:.3g} times it within {limit}" for limit, case in bests]
    near = [case for case in competing(cases) if case.quality <= NEAR * reference.quality]
    first = min(near, key=lambda case: (case.nfe, case.quality), default=None)
    reached = f"at the fewest evaluations: {_with_figures(first)}" if first else "none"
    return [
        f"The reference is {_with_figures(reference)}. The best have {', '.join(factors)} evaluations. "
        f"Within {NEAR - 1:.0%} of it, {reached}."
    ]


def _with_figures(case: MeasuredCase) -> str:
    took = "" if case.seconds_per_1000 is None else f" and {case.seconds_per_1000:.3g} s for 1000"
    return f"{case}, {case.quality:.4g} ± {case.standard_error:.2g} at {case.nfe:.4g} NFE{took}"
