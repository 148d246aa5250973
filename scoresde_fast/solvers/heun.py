# SPDX-License-Identifier: Apache-2.0
"""Heun's method in the noise-to-signal ratio s, with the churn of the EDM sampler (Karras et al. 2022)."""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, forward_step, posterior_mean, time_of
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row

MAX_CHURN = np.sqrt(2) - 1
"""Largest relative growth of s before a step: the variance of the noise doubles."""


@solver(
    "heun",
    aliases=("edm",),
    source="Karras et al. 2022, algorithms 1 and 2",
    deterministic=True,
    orders=(2,),
    evaluations=2,
    finish=posterior_mean,
)
def heun(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, steps: int, churn: float = 0.0) -> list[AnyRow]:
    """An Euler step of x / scale in s, then the whole step again with the mean of the slopes e at both ends.

    With churn a step first adds noise, which multiplies s by 1 + ``churn`` / ``steps`` or moves t to T.
    """
    gamma = min(churn / steps, MAX_CHURN)
    ends, starts = NoiseSchedule.at(sde, grid.edges[1:]), NoiseSchedule.at(sde, grid.times)
    if gamma:
        s_hat = starts.noise_to_signal * (1 + gamma)
        starts = NoiseSchedule.at(sde, time_of(sde, s_hat, grid.edges[-1], sde.T))
    decay, width = ends.scale / starts.scale, ends.scale * (ends.noise_to_signal - starts.noise_to_signal)
    e_start, e_end = starts.noise_predictions(), ends.noise_predictions()
    rows: list[AnyRow] = []
    for i, t in enumerate(grid.times):
        if gamma and t < sde.T:
            rows.append(forward_step(sde, t, starts.times[i]))
        rows.append(Row(starts.times[i], e_start[i], decay[i], outputs=(width[i],), save=True))
        rows.append(Row(ends.times[i], e_end[i], 0.0, saved=decay[i], outputs=(width[i] / 2, width[i] / 2)))
    return rows
