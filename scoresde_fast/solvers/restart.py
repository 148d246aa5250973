# SPDX-License-Identifier: Apache-2.0
"""Restart sampling: forward in time with fresh noise and back again, around any solver (Xu et al. 2023).

The noise wipes out errors that the solver has made so far, and the way back is short.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from scoresde_fast.sdes import SDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_levels import noised
from scoresde_fast.solvers.options import Interval
from scoresde_fast.solvers.table import AnyRow


def with_restarts(
    sde: SDE,
    grid: TimeGrid,
    intervals: Sequence[Interval],
    grid_back: Callable[[float, float, int], TimeGrid],
    fill: Callable[[TimeGrid], list[AnyRow]],
) -> list[AnyRow]:
    """The rows of ``grid``, with those of each interval where the run comes to its t_min.

    Args:
        sde: the SDE.
        grid: that of the run without the intervals, with edges at every t_min.
        intervals: see `Interval`; those with one t_min follow each other in the order given.
        grid_back: from (t_max, t_min, steps) to the grid of the way back.
        fill: the solver's rows on a grid; each grid begins a new history.
    """
    edges = grid.edges
    cuts = [0, *np.flatnonzero(np.isin(edges, stops(intervals))), len(edges) - 1]
    rows: list[AnyRow] = []
    for begin, end in pairwise(cuts):
        rows += fill(TimeGrid.between(edges[begin : end + 1]))
        for low, high, times, steps in intervals:
            if low == edges[end]:
                rows += [noised(sde, low, high), *fill(grid_back(high, low, steps))] * times
    return rows


def stops(intervals: Sequence[Interval]) -> list[float]:
    """Where a run is interrupted: every t_min once."""
    return sorted({interval[0] for interval in intervals})


def require_intervals(sde: SDE, intervals: Any, eps: float) -> None:
    """Raises ``ValueError`` unless Restart can be done with ``intervals`` on the SDE."""
    for interval in intervals:
        if not isinstance(interval, Sequence) or len(interval) != 4:
            raise ValueError(
                f"restart has the interval {interval!r}; each is four numbers, (t_min, t_max, times, steps)"
            )
        low, high, times, steps = interval
        if not eps < low < high <= sde.T:
            raise ValueError(
                f"restart goes from t_min={low!r} to t_max={high!r}; these must rise, above eps = {eps:g} and up to "
                f"{sde.T:g}"
            )
        for name, number in (("times", times), ("steps", steps)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"restart has {name}={number!r}; it must be a whole number of at least 1")
