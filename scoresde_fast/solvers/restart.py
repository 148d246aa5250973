# SPDX-License-Identifier: Apache-2.0
"""Restart sampling (Xu et al. 2023) with any solver: forward in time with fresh noise and back again.

The noise removes errors that the solver has accumulated, and the short way back adds few new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from scoresde_fast.errors import shown
from scoresde_fast.sdes import SDE
from scoresde_fast.solvers.grids import TimeGrid, require_steps
from scoresde_fast.solvers.noise_schedule import forward_step
from scoresde_fast.solvers.table import AnyRow

RestartInterval = tuple[float, float, int, int]
"""(t_min, t_max, times, steps): at t_min, go forward to t_max and back in ``steps`` steps, ``times`` times."""


def with_restarts(
    sde: SDE,
    intervals: Sequence[RestartInterval],
    steps: int,
    start: float,
    eps: float,
    make_grid: Callable[..., TimeGrid],
    fill: Callable[[TimeGrid], list[AnyRow]],
) -> list[AnyRow]:
    """Return the rows of a run to ``eps`` with restarts.

    Args:
        sde: the SDE.
        intervals: restart intervals; those with the same t_min are applied in the order given.
        steps: steps of the run, without those of the intervals.
        start, eps: start and end of the run.
        make_grid: ``make_grid(steps, end, *, start, through)`` -> the grid between two times; the start is by default
            that of the run.
        fill: ``fill(grid)`` -> the rows of the solver, which starts without a history.

    Raises:
        ValueError: an interval is invalid, or the steps are too few.
    """
    _require_intervals(intervals, start, eps)
    intervals = [(*sde.trained_times(np.array([high, low]))[::-1].tolist(), *rest) for low, high, *rest in intervals]
    _require_intervals(intervals, start, eps)  # moving t_min may have reached eps
    stops = sorted({interval[0] for interval in intervals})
    edges = make_grid(steps, eps, through=stops).edges
    cuts = [0, *np.flatnonzero(np.isin(edges, stops)), len(edges) - 1]
    rows: list[AnyRow] = []
    for begin, end in pairwise(cuts):
        rows += fill(TimeGrid.between(edges[begin : end + 1]))
        for t_min, t_max, times, steps_back in intervals:
            if t_min == edges[end]:
                rows += [forward_step(sde, t_min, t_max), *fill(make_grid(steps_back, t_min, start=t_max))] * times
    return rows


def restart_intervals(restart: Any) -> tuple[RestartInterval, ...]:
    """Parse intervals from a string such as "0.1:0.3:2:5,0.2:0.5:1:3"; convert sequences to tuples, without checks.

    Raises:
        ValueError: the string has another form.
    """
    if not isinstance(restart, str):
        if not isinstance(restart, Sequence):
            raise ValueError(
                f"restart is {shown(restart)}; it must be T_MIN:T_MAX:TIMES:STEPS, as in 0.1:0.3:2:5, or a tuple "
                "of (t_min, t_max, times, steps)"
            )
        return tuple(tuple(interval) if isinstance(interval, list) else interval for interval in restart)
    intervals = []
    for part in restart.split(","):
        try:
            t_min, t_max, times, steps = part.split(":")
            intervals.append((float(t_min), float(t_max), int(times), int(steps)))
        except ValueError:
            raise ValueError(f"restart is {part!r}; it must be T_MIN:T_MAX:TIMES:STEPS, as in 0.1:0.3:2:5") from None
    return tuple(intervals)


def _require_intervals(intervals: Sequence[Any], start: float, eps: float) -> None:
    """Raise ``ValueError`` unless ``intervals`` are valid for a run from ``start`` to ``eps``."""
    for interval in intervals:
        if not isinstance(interval, Sequence) or len(interval) != 4 or not all(map(_is_number, interval)):
            raise ValueError(
                f"restart has the interval {shown(interval)}; it must be four numbers, (t_min, t_max, times, steps)"
            )
        t_min, t_max, times, steps = interval
        if not eps < t_min < t_max <= start:
            raise ValueError(
                f"restart goes from t_min={t_min!r} to t_max={t_max!r}; it needs eps < t_min < t_max <= {start:g}, "
                f"where eps is {eps:g}"
            )
        for name, value in (("times", times), ("steps", steps)):
            require_steps(value, name=f"restart's number of {name}")

    rows = sum(times * steps for _, _, times, steps in intervals)
    require_steps(rows, 0, name="restart's number of all steps")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
