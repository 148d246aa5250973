# SPDX-License-Identifier: Apache-2.0
"""What the lines say: curves, Pareto fronts, the best within a limit and what cannot be told from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from scoresde_fast.bench.solvers.measures import paired_standard_error

TIED = 2.0
"""Lines that differ by less than so many standard errors of their difference are tied."""
NAMED = 5
"""How many of those that are tied with the best a sentence names."""
NEAR = 1.1
"""How near the reference a line is to be, as a factor of its quality."""
VERDICT_KEYS = ("by_nfe", "by_seconds", "fronts", "sentences")

Line = dict[str, Any]


def verdict(lines: Sequence[Line], budgets: Iterable[int], chance: float = 0.0) -> dict[str, Any]:
    """`VERDICT_KEYS`.

    ``by_nfe`` and ``by_seconds`` hold, for each limit, the place of the ``best`` line among ``lines``, of those that
    are ``tied`` with it, of every other curve the best, and of the ``cheapest`` of all that are; limits of time at
    which nothing changes are left out.  ``fronts`` holds the places of the Pareto fronts, by cost.  Lines that were not
    timed are in nothing that is about time.  ``chance`` is that of `Measure`.
    """
    limits = sorted(set(budgets))
    most = max((math.ceil(line["nfe"]) for line in competing(lines)), default=0)
    if limits and most > limits[-1]:
        limits.append(most)
    by_nfe = _bests(lines, "nfe", limits, chance)
    by_seconds = _bests(lines, "seconds_per_1000", _time_limits(lines), chance)
    by_seconds = [
        found
        for found, before in zip(by_seconds, [None, *by_seconds], strict=False)
        if before is None or found["best"] != before["best"]
    ]
    return {
        "by_nfe": by_nfe,
        "by_seconds": by_seconds,
        "fronts": {cost: pareto_front(lines, cost) for cost in ("nfe", "seconds_per_1000")},
        "sentences": [
            *(_recommendation(lines, found, f"{found['limit']} evaluations") for found in by_nfe),
            *(_recommendation(lines, found, f"{found['limit']:g} s for 1000 samples") for found in by_seconds),
            *_untimed(lines),
            *_against_reference(lines, by_nfe),
        ],
    }


def describe(line: Line) -> str:
    """A line in words, its cost apart: name, and in brackets order, grid and tolerance."""
    order = f"order {line['order']}" if line["order"] is not None else None
    tolerance = f"tolerance {line['tolerance']:g}" if line["tolerance"] is not None else None
    details = ", ".join(part for part in (order, line["grid"], tolerance) if part)
    return f"{line['name']} ({details})" if details else line["name"]


def competing(lines: Iterable[Line], cost: str = "nfe") -> list[Line]:
    """Those that ended well and whose cost is known, without the reference."""
    return [line for line in lines if line["quality"] is not None and line[cost] is not None and not line["reference"]]


def best_of_curve(lines: Iterable[Line], value: str = "quality") -> dict[str, list[Line]]:
    """Curves by name: for each budget or tolerance the order and grid of least ``value``, by number of evaluations."""
    best: dict[tuple[Any, ...], Line] = {}
    for line in competing(lines):
        key = (line["name"], line["budget"], line["tolerance"])
        if line[value] is not None and (key not in best or line[value] < best[key][value]):
            best[key] = line
    curves: dict[str, list[Line]] = {}
    for line in sorted(best.values(), key=lambda line: line["nfe"]):
        curves.setdefault(line["name"], []).append(line)
    return curves


def pareto_front(lines: Sequence[Line], cost: str) -> list[int]:
    """Places of the lines that none beats at the same or lower cost, the cheapest first."""
    front: list[int] = []
    reached = math.inf
    for line in sorted(competing(lines, cost), key=lambda line: (line[cost], line["quality"])):
        if line["quality"] < reached:
            reached = line["quality"]
            front.append(lines.index(line))
    return front


def tied(line: Line, other: Line, chance: float = 0.0) -> bool:
    """Whether chance may be all that parts two lines."""
    error = paired_standard_error(line["half_differences"], other["half_differences"])
    apart = abs(line["quality"] - other["quality"]) > TIED * error
    return not apart or max(line["quality"], other["quality"]) <= chance


def _bests(lines: Sequence[Line], cost: str, limits: Sequence[float], chance: float) -> list[dict[str, Any]]:
    """For each limit that a line keeps to, the best, and what is tied with it."""
    found = []
    for limit in limits:
        within = [line for line in competing(lines, cost) if line[cost] <= limit]
        within.sort(key=lambda line: line["quality"])
        if within:
            equal = [line for line in within if line is within[0] or tied(line, within[0], chance)]
            first: dict[str, Line] = {}
            for line in equal:
                first.setdefault(line["name"], line)
            places = [lines.index(line) for line in first.values()]
            cheapest = lines.index(min(equal, key=lambda line: line[cost]))
            found.append({"limit": limit, "best": places[0], "tied": places[1:], "cheapest": cheapest})
    return found


def _time_limits(lines: Sequence[Line]) -> list[float]:
    """1, 2 or 5 times a power of ten within what the lines took."""
    took = [line["seconds_per_1000"] for line in competing(lines, "seconds_per_1000")]
    if not took:
        return []
    powers = range(math.floor(math.log10(min(took))), math.ceil(math.log10(max(took))) + 1)
    limits = [float(f"{step}e{power}") for power in powers for step in (1, 2, 5)]
    covering = next(limit for limit in limits if limit >= max(took))
    return [limit for limit in limits if min(took) <= limit <= covering]


def _recommendation(lines: Sequence[Line], found: dict[str, Any], limit: str) -> str:
    sentence = f"Best within {limit}: {_told(lines[found['best']])}."
    if found["tied"]:
        names = [describe(lines[place]) for place in found["tied"]]
        if len(names) > NAMED:
            names = [*names[:NAMED], f"{len(names) - NAMED} more"]
        sentence += f" Indistinguishable from it: {', '.join(names)}."
    if found["cheapest"] != found["best"]:
        sentence += f" At the least cost: {_told(lines[found['cheapest']])}."
    return sentence


def _untimed(lines: Sequence[Line]) -> list[str]:
    """How many lines are missing where time is spoken of."""
    total, timed = len(competing(lines)), len(competing(lines, "seconds_per_1000"))
    if timed in (0, total):
        return []
    return [f"Of {total} lines {timed} were timed; what is said of seconds leaves out the others."]


def _against_reference(lines: Sequence[Line], by_nfe: Sequence[dict[str, Any]]) -> list[str]:
    """How near the best of each budget is to the reference, and the first line that is near enough."""
    reference = next((line for line in lines if line["reference"] and line["quality"] is not None), None)
    if reference is None or not by_nfe:
        return []
    bests = [(found["limit"], lines[found["best"]]) for found in by_nfe]
    factors = [f"{line['quality'] / reference['quality']:.3g} times it within {limit}" for limit, line in bests]
    near = [line for line in competing(lines) if line["quality"] <= NEAR * reference["quality"]]
    first = min(near, key=lambda line: (line["nfe"], line["quality"]), default=None)
    reached = f"at the fewest evaluations: {_told(first)}" if first else "none"
    return [
        f"The reference is {_told(reference)}. The best have {', '.join(factors)} evaluations. "
        f"Within {NEAR - 1:.0%} of it, {reached}."
    ]


def _told(line: Line) -> str:
    """A line with its cost, as far as that is known, and its quality."""
    value = f"{line['quality']:.4g} ± {line['standard_error']:.2g}"
    seconds = line["seconds_per_1000"]
    took = "" if seconds is None else f" and {seconds:.3g} s for 1000"
    return f"{describe(line)}, {value} at {line['nfe']:.4g} NFE{took}"
