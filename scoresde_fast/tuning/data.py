# SPDX-License-Identifier: Apache-2.0
"""Search for the solver whose images are nearest to the data, among all forms of all solvers, also those with noise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
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

PROMISING = 3
"""Number of solvers whose other grids, orders and forms are tried too."""

Distance = Callable[[SolverOptions, Sequence[int]], float]


def distance_to_data(model: ScoreFunction, measure: Measure, network: dict[str, Any]) -> Distance:
    """Return the function from the options of a solver and seeds to the distance of its images to the data."""

    def distance(options: SolverOptions, seeds: Sequence[int]) -> float:
        return measure.score(Sampler(model, options, **network).sample(seeds)).quality

    return distance


def nearest_to_data(
    model: ScoreFunction,
    nfe: int,
    flow: SolverOptions,
    distance: Distance,
    seeds: Sequence[int],
    deadline: float,
    network: dict[str, Any],
) -> tuple[SolverOptions, tuple[float, ...]]:
    """Return the solver with the smallest distance on the seeds, and the smallest distance after each trial.

    Args:
        model: the model.
        nfe: largest number of evaluations.
        flow: the solver that is nearest to the flow, which is tried first.
        distance: see `distance_to_data`.
        seeds: the seeds; all solvers have the same.
        deadline: the time of `monotonic` at which the search ends.
        network: as of `tune`.
    """
    distances = {flow: distance(flow, seeds)}
    curve = [distances[flow]]
    candidates = sorted(fixed_step(model, ComparisonOptions(budgets=(nfe,), **network)), key=attrgetter("priority"))
    by_solver: dict[str, float] = {}
    for candidate in candidates:
        if monotonic() > deadline:
            break
        name = candidate.case.solver
        if candidate.priority != Priority.DEFAULT and name not in nsmallest(
            PROMISING, by_solver, by_solver.__getitem__
        ):
            continue
        with warnings.catch_warnings(), suppress(ValueError, NonFiniteError):  # the steps are too few, or too long
            warnings.simplefilter("ignore", UserWarning)
            options = candidate.prepare().options
            assert isinstance(options, SolverOptions)
            if options not in distances:
                distances[options] = distance(options, seeds)
                by_solver[name] = min(by_solver.get(name, math.inf), distances[options])
                curve.append(min(curve[-1], distances[options]))
    return min(distances, key=distances.__getitem__), tuple(curve)
