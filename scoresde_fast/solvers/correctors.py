# SPDX-License-Identifier: Apache-2.0
"""Correctors: steps of Langevin dynamics at a fixed time, between the steps of a predictor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.table import Row

Corrector = Callable[[ScalarSDE, TimeGrid, float], list[Row]]


def langevin(sde: ScalarSDE, grid: TimeGrid, snr: float) -> list[Row]:
    """x + e score + sqrt(2 e) z with e = 2 alpha (snr |z| / |score|)^2 (Song et al. 2021, algorithms 4 and 5)."""
    factors = 2 * _alpha(sde, grid) * snr**2
    return [Row(t, outputs=(1.0,), noise=1.0, langevin=factor) for t, factor in zip(grid.times, factors, strict=True)]


def annealed_langevin(sde: ScalarSDE, grid: TimeGrid, snr: float) -> list[Row]:
    """x + e score + sqrt(2 e) z with e = 2 alpha (snr std(t))^2 (Song & Ermon 2019, algorithm 1)."""
    sizes = 2 * _alpha(sde, grid) * (snr * sde.marginal(grid.times).std) ** 2
    rows = zip(grid.times, sizes, np.sqrt(2 * sizes), strict=True)
    return [Row(t, outputs=(size,), noise=noise) for t, size, noise in rows]


def _alpha(sde: ScalarSDE, grid: TimeGrid) -> Array:
    """(n,) the factor alpha; NaN where the step is so long that it would be negative."""
    alpha = sde.langevin_alpha(grid.table_times(sde), grid.dt)
    return np.where(alpha > 0, alpha, np.nan)


CORRECTORS: dict[str, Corrector] = {"langevin": langevin, "ald": annealed_langevin}
