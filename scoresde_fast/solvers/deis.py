# SPDX-License-Identifier: Apache-2.0
"""DEIS and iPNDM: multistep integrators of the noise prediction e.

Both integrate d(x / scale) = e ds, where s is the noise-to-signal ratio.  They replace e by the polynomial through its
last values: in t (tAB-DEIS) or in s (rho AB-DEIS, which is iPNDM for steps of any length).
"""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers.adams import evaluation_points, gauss_legendre, mean_weights
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, posterior_mean, time_of
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row


@solver(
    "deis",
    source="Zhang & Chen 2022 (DEIS), tAB",
    deterministic=True,
    orders=(2, 3, 4),
    finish=posterior_mean,
)
def deis(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, order: int = 3) -> list[AnyRow]:
    """x / scale <- x / scale + integral of e ds, with e the polynomial in t through its last ``order`` values."""
    schedule = NoiseSchedule.at(sde, grid.edges)
    # Quadrature in l = -log s, in which all factors are smooth; ds = -s dl.
    l, weights = gauss_legendre(schedule.half_log_snr)  # noqa: E741
    s = np.exp(-l)
    times = time_of(sde, s, grid.edges[-1], grid.edges[0])
    return _rows(schedule, mean_weights(evaluation_points(grid.edges, order), times, weights * s))


@solver(
    "ipndm",
    source="Liu et al. 2022 (PNDM); Zhang & Chen 2022 (DEIS), rho AB",
    deterministic=True,
    orders=(2, 3, 4),
    finish=posterior_mean,
)
def ipndm(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, order: int = 3) -> list[AnyRow]:
    """As `deis`, with a polynomial in s: Adams-Bashforth for steps of any length."""
    schedule = NoiseSchedule.at(sde, grid.edges)
    s = schedule.noise_to_signal
    return _rows(schedule, mean_weights(evaluation_points(s, order), *gauss_legendre(s)))


def _rows(schedule: NoiseSchedule, weights: Array) -> list[AnyRow]:
    """Return steps of x / scale by the difference of s times the mean of e, ``weights`` (n, p) on its last values."""
    decay = schedule.scale[1:] / schedule.scale[:-1]
    outputs = (schedule.scale[1:] * np.diff(schedule.noise_to_signal))[:, None] * weights
    columns = zip(schedule.times, schedule.noise_predictions(), decay, outputs, strict=False)
    return [Row(t, derive, x, outputs=tuple(e)) for t, derive, x, e in columns]
