# SPDX-License-Identifier: Apache-2.0
"""DDIM: noise prediction held over the step, with as much fresh noise as is asked for."""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_levels import IMAGE_SDES, Levels, posterior_mean
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row


@solver(
    "ddim",
    sdes=IMAGE_SDES,
    probability_flow=True,
    deterministic=True,
    source="Song, Meng & Ermon 2020, equations 12 and 16",
    finish=posterior_mean,
)
def ddim(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, eta: float = 0.0) -> list[AnyRow]:
    """scale' x0 + sqrt(std'^2 - sigma^2) e + sigma z; sigma is ``eta`` times the deviation of x' given x and x0.

    Raises:
        ValueError: ``eta`` is greater than 1.
    """
    if eta > 1:
        raise ValueError(f"eta is {eta:g}; of solver 'ddim' it is at most 1, the noise of the posterior")
    levels = Levels.at(sde, grid.edges)
    decay = levels.scale[1:] / levels.scale[:-1]
    sigma = eta * levels.std[1:] * np.sqrt(-np.expm1(-2 * levels.widths))
    direction = np.sqrt(levels.std[1:] ** 2 - sigma**2) - decay * levels.std[:-1]
    columns = zip(grid.times, levels.noise_predictions(), decay, direction, sigma, strict=False)
    return [Row(t, derive, x, outputs=(e,), noise=z) for t, derive, x, e, z in columns]
