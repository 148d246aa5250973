# SPDX-License-Identifier: Apache-2.0
"""Grids of given values, which are times or values of std / scale, and the times of given values of std / scale."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from scoresde_fast.errors import shown
from scoresde_fast.sdes import SDE, Array, ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import time_of

SIGMAS = "sigmas"
"""The first entry of `SolverOptions.grid` if the others are values of std / scale."""
ROUNDING = 1e-9
"""Relative difference from std / scale at T that is one of rounding."""
START_TOLERANCE = 0.01
"""Allowed relative difference between the noise at the start of given times and that of the prior."""


def grid_values(grid: Any) -> str | tuple[float | str, ...]:
    """Return the name of a grid, or its values as a tuple that begins with "sigmas" if they are values of std / scale.

    Raises:
        ValueError: a value is not a finite number.
    """
    if isinstance(grid, str):
        if not grid.startswith(f"{SIGMAS}:") and "," not in grid:
            return grid
        kind, _, text = grid.rpartition(":")
        values: Any = text.split(",")
    else:
        has_values = isinstance(grid, Iterable) and getattr(grid, "ndim", None) != 0
        kind, values = "", list(grid) if has_values else []
        if values and isinstance(values[0], str):
            kind, values = values[0], values[1] if len(values) == 2 else values[1:]
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if kind not in ("", SIGMAS) or not numbers:
        raise ValueError(f"grid is {shown(grid)}; it must be a name, times such as 1,0.5,0.1, or sigmas:80,10,1,0.1")
    for number in numbers:
        if not math.isfinite(number):
            raise ValueError(f"grid has the value {number}; it must have finite numbers only")
    return (kind, *numbers) if kind else numbers


def grid_of_values(sde: SDE, grid: tuple[float | str, ...]) -> TimeGrid:
    """Return the grid with the edges of `SolverOptions.grid`: times, or after "sigmas" values of std / scale.

    Raises:
        ValueError: they do not fall strictly, are out of range, or the first is not at the noise of the prior.
    """
    values = np.array([value for value in grid if value != SIGMAS], dtype=np.float64)
    for high, low in pairwise(values):
        if low >= high:
            raise ValueError(
                f"grid is {_shown(values)}; its values must fall, from noise to data, but {low:g} follows {high:g}: "
                "sort them and leave out duplicates"
            )
    if SIGMAS in grid:
        edges = times_of_sigmas(sde, values, f"grid has sigmas from {values.min():g} to {values.max():g}")
    else:
        edges = np.where((values > sde.T) & (values <= sde.T * (1 + START_TOLERANCE)), sde.T, values)
        if not 0 < edges[-1] < edges[0] <= sde.T:
            raise ValueError(
                f"grid is {_shown(values)}; on {sde.name!r} times are at most {sde.T:g} and greater than 0: for values "
                "of std / scale pass ('sigmas', values)"
            )
    edges = sde.trained_times(edges)
    start, prior = edges[0], sde.T
    if isinstance(sde, ScalarSDE):
        start, prior = float(sde.marginal(edges[0]).std), sde.prior_std
    if abs(start / prior - 1) > START_TOLERANCE:
        raise ValueError(
            f"grid starts at t={edges[0]:g}, where the noise is {start:.4g}, but the prior is at t={sde.T:g}, where it "
            f"is {prior:.4g}: start there, or choose a grid by name with sigma_max"
        )
    return TimeGrid.between(edges)


def times_of_sigmas(sde: SDE, sigmas: Array, problem: str) -> Array:
    """Return the times (n,) at which std / scale has the values ``sigmas`` (n,); T for values slightly above its own.

    Raises:
        ValueError: a value is out of the range of the SDE; the message begins with ``problem``.
    """
    low = min(sde.sampling_eps, 1e-6)
    least, most = sde.noise_to_signal(np.array([low, sde.T]))
    if not (sigmas <= most * (1 + START_TOLERANCE)).all() or not (sigmas >= least).all():
        raise ValueError(f"{problem}; on {sde.name!r} std / scale is between {least:.4g} and {most:.4g}")
    return np.where(sigmas >= most * (1 - ROUNDING), sde.T, time_of(sde, np.minimum(sigmas, most), low, sde.T))


def _shown(values: Array) -> str:
    """Return the values in a message: at most the first and the last three."""
    texts = [f"{value:g}" for value in values]
    return ", ".join(texts if len(texts) <= 6 else [*texts[:3], "...", *texts[-3:]])
