# SPDX-License-Identifier: Apache-2.0
"""Correctors: steps of Langevin dynamics at a fixed time, before each step of a predictor.

To add a corrector, write a function ``(sde, grid, snr)`` -> one row for each time of the grid, and list it in
`CORRECTORS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scoresde_fast.errors import unknown_message
from scoresde_fast.sdes import CLDSDE, SDE, Array, ScalarSDE
from scoresde_fast.solvers.grids import MOST_STEPS, TimeGrid, require_steps
from scoresde_fast.solvers.table import AnyRow, PairRow, Row


def langevin(sde: SDE, grid: TimeGrid, snr: float) -> list[AnyRow]:
    """x + e score + sqrt(2 e) z with e = 2 alpha (snr |z| / |score|)^2 (Song et al. 2021, algorithms 4 and 5)."""
    assert isinstance(sde, ScalarSDE)
    factors = 2 * _alpha(sde, grid) * snr**2
    return [Row(t, outputs=(1.0,), noise=1.0, langevin=factor) for t, factor in zip(grid.times, factors, strict=True)]


def annealed_langevin(sde: SDE, grid: TimeGrid, snr: float) -> list[AnyRow]:
    """x + e score + sqrt(2 e) z with e = 2 alpha (snr std(t))^2 (Song & Ermon 2019, algorithm 1)."""
    if isinstance(sde, CLDSDE):
        return _annealed_langevin_of_pairs(sde, grid, snr)
    assert isinstance(sde, ScalarSDE)
    sizes = 2 * _alpha(sde, grid) * (snr * sde.marginal(grid.times).std) ** 2
    rows = zip(grid.times, sizes, np.sqrt(2 * sizes), strict=True)
    return [Row(t, outputs=(size,), noise=noise) for t, size, noise in rows]


def _annealed_langevin_of_pairs(sde: CLDSDE, grid: TimeGrid, snr: float) -> list[AnyRow]:
    """u + e S score + sqrt(2 e) L z with e = 2 snr^2, where S = L L^T is the covariance of u(t) | x(0).

    This is `annealed_langevin` in the coordinates L^-1 u, in which the noise has standard deviation 1.  The score of x
    is recovered from that of v (`CLDSDE.joint_score`).
    """
    size = 2 * snr**2
    covariances = size * sde.marginal(grid.times).covariance
    factors = np.sqrt(2 * size) * sde.cholesky(grid.times)
    rows = zip(grid.times, *sde.joint_score(grid.times), covariances, factors, strict=True)
    return [PairRow(t, derive=(state, score), outputs=(S,), noise=L) for t, state, score, S, L in rows]


def _alpha(sde: ScalarSDE, grid: TimeGrid) -> Array:
    """Return the factor alpha (n,); NaN where it is not positive, because the step is too long."""
    alpha = sde.langevin_alpha(grid.table_times(sde), grid.dt)
    return np.where(alpha > 0, alpha, np.nan)


@dataclass(frozen=True)
class Corrector:
    """A corrector.

    Attributes:
        fill: ``fill(sde, grid, snr)`` -> one row for each time of the grid.
        sdes: SDEs on which it is defined.
    """

    fill: Callable[[SDE, TimeGrid, float], list[AnyRow]]
    sdes: tuple[type[SDE], ...]


CORRECTORS: dict[str, Corrector] = {
    "langevin": Corrector(langevin, (ScalarSDE,)),
    "ald": Corrector(annealed_langevin, (ScalarSDE, CLDSDE)),
}


def with_corrector(
    name: str, sde: SDE, fill: Callable[[TimeGrid], list[AnyRow]], *, steps: int, snr: float
) -> Callable[[TimeGrid], list[AnyRow]]:
    """Return ``fill`` (grid -> rows of a predictor) extended by ``steps`` corrector rows before each step.

    Raises:
        ValueError: the name is unknown, the corrector is not defined on ``sde``, or a number is out of range.
    """
    if name not in CORRECTORS:
        raise ValueError(unknown_message("corrector", name, [*CORRECTORS, "none"]))
    if not isinstance(sde, CORRECTORS[name].sdes):
        fitting = " or ".join(repr(other) for other, entry in CORRECTORS.items() if isinstance(sde, entry.sdes))
        raise ValueError(f"corrector {name!r} is not defined on the SDE {sde.name!r}; choose {fitting}, or 'none'")
    if steps < 1 or steps > MOST_STEPS:
        raise ValueError(
            f"corrector_steps is {steps}; it must be an integer from 1 to {MOST_STEPS}, or choose corrector='none'"
        )
    if not (snr > 0 and math.isfinite(snr * snr)):
        raise ValueError(f"snr is {snr}; it must be greater than 0, and its square finite")

    def fill_both(grid: TimeGrid) -> list[AnyRow]:
        require_steps(steps * len(grid), name="the number of all corrector steps")
        rows: list[AnyRow] = []
        predictions = fill(grid)
        rows_per_step = len(predictions) // len(grid)
        for i, correction in enumerate(CORRECTORS[name].fill(sde, grid, snr)):
            rows += [correction] * steps
            rows += predictions[i * rows_per_step : (i + 1) * rows_per_step]
        return rows

    return fill_both
