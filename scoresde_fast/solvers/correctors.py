# SPDX-License-Identifier: Apache-2.0
"""Correctors: steps of Langevin dynamics at a fixed time, between the steps of a predictor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scoresde_fast.errors import unknown
from scoresde_fast.sdes import CLDSDE, SDE, Array, ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_levels import IMAGE_SDES
from scoresde_fast.solvers.table import AnyRow, PairRow, Row


@dataclass(frozen=True)
class Corrector:
    """What is known of a corrector.

    Attributes:
        fill: ``fill(sde, grid, snr)`` -> one row for each time of the grid.
        sdes: the SDEs it is defined on.
    """

    fill: Callable[[SDE, TimeGrid, float], list[AnyRow]]
    sdes: tuple[type[SDE], ...]


def langevin(sde: SDE, grid: TimeGrid, snr: float) -> list[AnyRow]:
    """x + e score + sqrt(2 e) z with e = 2 alpha (snr |z| / |score|)^2 (Song et al. 2021, algorithms 4 and 5)."""
    assert isinstance(sde, ScalarSDE)
    factors = 2 * _alpha(sde, grid) * snr**2
    return [Row(t, outputs=(1.0,), noise=1.0, langevin=factor) for t, factor in zip(grid.times, factors, strict=True)]


def annealed_langevin(sde: SDE, grid: TimeGrid, snr: float) -> list[AnyRow]:
    """x + e score + sqrt(2 e) z with e = 2 alpha (snr std(t))^2 (Song & Ermon 2019, algorithm 1)."""
    if isinstance(sde, CLDSDE):
        return _of_pairs(sde, grid, snr)
    assert isinstance(sde, ScalarSDE)
    sizes = 2 * _alpha(sde, grid) * (snr * sde.marginal(grid.times).std) ** 2
    rows = zip(grid.times, sizes, np.sqrt(2 * sizes), strict=True)
    return [Row(t, outputs=(size,), noise=noise) for t, size, noise in rows]


def _of_pairs(sde: CLDSDE, grid: TimeGrid, snr: float) -> list[AnyRow]:
    """u + e S score + sqrt(2 e) L z with e = 2 snr^2, S = L L^T the covariance of u(t) | x(0), and the score of both.

    In the coordinates L^-1 u, in which the noise of the data has deviation 1 as `snr` takes for granted, that is the
    step of images.  The score of x is recovered from that of v (`CLDSDE.joint_score`).
    """
    size = 2 * snr**2
    covariances = size * sde.marginal(grid.times).covariance
    factors = np.sqrt(2 * size) * sde.cholesky(grid.times)
    rows = zip(grid.times, *sde.joint_score(grid.times), covariances, factors, strict=True)
    return [
        PairRow(t, derive=(of_state, of_score), outputs=(covariance,), noise=factor)
        for t, of_state, of_score, covariance, factor in rows
    ]


def _alpha(sde: ScalarSDE, grid: TimeGrid) -> Array:
    """(n,) the factor alpha; NaN where the step is so long that it would be negative."""
    alpha = sde.langevin_alpha(grid.table_times(sde), grid.dt)
    return np.where(alpha > 0, alpha, np.nan)


CORRECTORS: dict[str, Corrector] = {
    "langevin": Corrector(langevin, IMAGE_SDES),
    "ald": Corrector(annealed_langevin, (*IMAGE_SDES, CLDSDE)),
}


def find_corrector(name: str, sde: SDE) -> Corrector:
    """The corrector ``name``, checked to fit.

    Raises:
        ValueError: the name is unknown, or the corrector is not defined on ``sde``.
    """
    if name not in CORRECTORS:
        raise ValueError(unknown("corrector", name, [*CORRECTORS, "none"]))
    if not isinstance(sde, CORRECTORS[name].sdes):
        fitting = " or ".join(repr(other) for other, known in CORRECTORS.items() if isinstance(sde, known.sdes))
        raise ValueError(f"corrector {name!r} is not defined on the SDE {sde.name!r}; choose {fitting}, or 'none'")
    return CORRECTORS[name]
