# SPDX-License-Identifier: Apache-2.0
"""The gradient-estimation sampler of Permenter & Yuan 2023: DDIM with an extrapolated noise prediction."""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, posterior_mean
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row


@solver(
    "gradient_estimation",
    grid="karras",
    source="Permenter & Yuan 2023, algorithm 2",
    deterministic=True,
    finish=posterior_mean,
)
def gradient_estimation(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, gamma: float = 2.0) -> list[AnyRow]:
    """A DDIM step with the noise prediction ``gamma`` e + (1 - ``gamma``) e_previous; the first is one of DDIM."""
    schedule = NoiseSchedule.at(sde, grid.edges)
    decay = schedule.scale[1:] / schedule.scale[:-1]
    width = schedule.scale[1:] * np.diff(schedule.noise_to_signal)
    weights = np.tile([gamma, 1 - gamma], (len(grid), 1))
    weights[0] = 1.0, 0.0
    columns = zip(grid.times, schedule.noise_predictions(), decay, width[:, None] * weights, strict=False)
    return [Row(t, derive, x, outputs=tuple(e)) for t, derive, x, e in columns]
