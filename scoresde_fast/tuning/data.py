# SPDX-License-Identifier: Apache-2.0
"""Search for the solver whose images are nearest to the data, among all forms of all solvers, also those with noise."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from heapq import nsmallest
from operator import attrgetter
from time import monotonic
from typing import Any

from scoresde_fast.bench.candidates import ComparisonOptions, Priority, fixed_step
from scoresde_fast.bench.measures import Measure
from scoresde_fast.loop.run_monitor import NonFiniteError
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sampler import Sampler
from scoresde_fast.solvers import SolverOptions

PROMISING = 6
"""The solvers of this number of best forms are tried in their other forms too."""
ROUNDS: tuple[int, ...] = (128, 512, 2048)
"""Number of seeds in each round."""
FIRST_SHARE = 0.4
"""Share of the time of the first round."""

Distance = Callable[[SolverOptions, Sequence[int]], float]


def distance_to_data(model: ScoreFunction, measure: Measure, network: dict[str, Any]) -> Distance:
    """Return the function from the options of a solver and seeds to the distance of its images to the data."""

    def distance(options: SolverOptions, seeds: Sequence[int]) -> float:
        return measure.score(Sampler(model, options, **network).sample(seeds)).quality

    return distance


def nearest_to_data(
    model: ScoreFunction,
    nfe: int,
    safe: Sequence[SolverOptions],
    distance: Distance,
    seconds: float,
    network: dict[str, Any],
) -> tuple[SolverOptions, tuple[float, ...]]:
    """Return the solver nearest to the data, and the smallest distance in each round.

    A distance of few images is uncertain.  So the first round compares all solvers with few seeds, and each later one
    those that were best so far with more seeds, as many as the time allows.

    Args:
        model: the model.
        nfe: largest number of evaluations.
        safe: solvers that take part in each round, so that no other one wins by chance.
        distance: see `distance_to_data`; in a round all solvers have the same seeds.
        seconds: duration of the search, about.
        network: as of `tune`.
    """
    start = monotonic()
    ranking = {options: distance(options, range(ROUNDS[0])) for options in safe}
    for options in _others(model, nfe, ranking, network):
        if monotonic() - start > FIRST_SHARE * seconds:
            break
        with suppress(NonFiniteError):
            ranking.setdefault(options, distance(options, range(ROUNDS[0])))
    duration = (monotonic() - start) / (len(ranking) * ROUNDS[0])  # of a seed
    best, curve = min(safe, key=ranking.__getitem__), [min(ranking.values())]
    for count in ROUNDS[1:]:
        most = int((start + seconds - monotonic()) / (duration * count)) - len(safe)
        if most < 1:
            break
        others = [options for options in sorted(ranking, key=ranking.__getitem__) if options not in safe]
        ranking = {
            options: distance(options, range(count)) for options in (*safe, *others[: min(most, len(others) // 3)])
        }
        best = min(ranking, key=ranking.__getitem__)
        curve.append(ranking[best])
    return best, tuple(curve)


def _others(
    model: ScoreFunction, nfe: int, ranking: Mapping[SolverOptions, float], network: dict[str, Any]
) -> Iterator[SolverOptions]:
    """Yield the default form of each solver, then the other forms of those that are the most promising so far."""
    candidates = sorted(fixed_step(model, ComparisonOptions(budgets=(nfe,), **network)), key=attrgetter("priority"))
    for candidate in candidates:
        promising = {options.solver for options in nsmallest(PROMISING, ranking, ranking.__getitem__)}
        if candidate.priority != Priority.DEFAULT and candidate.case.solver not in promising:
            continue
        with warnings.catch_warnings(), suppress(ValueError):  # the steps are too few, or too long
            warnings.simplefilter("ignore", UserWarning)
            options = candidate.prepare().options
            assert isinstance(options, SolverOptions)
            yield options
