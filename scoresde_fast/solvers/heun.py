# SPDX-License-Identifier: Apache-2.0
"""Heun's method in the noise-to-signal ratio, with the churn of EDM's stochastic sampler (Karras et al. 2022)."""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_levels import IMAGE_SDES, Levels, noised, posterior_mean, time_of
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row

MOST_CHURN = np.sqrt(2) - 1
"""The largest growth of the noise before a step, as a share of it: its variance is doubled at most."""


@solver(
    "heun",
    sdes=IMAGE_SDES,
    probability_flow=True,
    deterministic=True,
    orders=(2,),
    evaluations=2,
    source="Karras et al. 2022, algorithms 1 and 2",
    aliases=("edm",),
    finish=posterior_mean,
)
def heun(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, steps: int, churn: float = 0.0) -> list[AnyRow]:
    """An Euler step of x / scale in s, then the whole step with the mean of both slopes.

    A step begins by going forward to where s is larger by the share churn / ``steps`` of itself, T at most.
    """
    ends = Levels.at(sde, grid.edges[1:])
    growth = min(churn / steps, MOST_CHURN)
    starts = Levels.at(sde, grid.times)
    if growth:
        starts = Levels.at(sde, time_of(sde, starts.ratio * (1 + growth), grid.edges[-1], sde.T))
    decay, width = ends.scale / starts.scale, ends.scale * (ends.ratio - starts.ratio)
    derive_start, derive_end = starts.noise_predictions(), ends.noise_predictions()
    rows: list[AnyRow] = []
    for i, t in enumerate(grid.times):
        if growth and t < sde.T:
            rows.append(noised(sde, t, starts.times[i]))
        rows.append(Row(starts.times[i], derive_start[i], decay[i], outputs=(width[i],), save=True))
        outputs = (width[i] / 2, width[i] / 2)
        rows.append(Row(ends.times[i], derive_end[i], 0.0, saved=decay[i], outputs=outputs))
    return rows
