# SPDX-License-Identifier: Apache-2.0
"""DDIM (Song, Meng & Ermon 2020): a constant noise prediction e in each step, and part of the posterior's noise."""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, posterior_mean
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row


@solver("ddim", source="Song, Meng & Ermon 2020, equations 12 and 16", deterministic=True, finish=posterior_mean)
def ddim(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, eta: float = 0.0) -> list[AnyRow]:
    """scale' x0 + sqrt(std'^2 - sigma^2) e + sigma z; sigma is ``eta`` times the standard deviation of x' | x, x0.

    Raises:
        ValueError: ``eta`` is greater than 1.
    """
    if eta > 1:
        raise ValueError(f"eta is {eta:g}; solver 'ddim' allows at most 1, the noise of the posterior")
    schedule = NoiseSchedule.at(sde, grid.edges)
    decay = schedule.scale[1:] / schedule.scale[:-1]
    sigma = eta * schedule.std[1:] * np.sqrt(-np.expm1(-2 * schedule.h))
    direction = np.sqrt(schedule.std[1:] ** 2 - sigma**2) - decay * schedule.std[:-1]
    columns = zip(grid.times, schedule.noise_predictions(), decay, direction, sigma, strict=False)
    return [Row(t, derive, x, outputs=(e,), noise=z) for t, derive, x, e, z in columns]
