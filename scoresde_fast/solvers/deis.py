# SPDX-License-Identifier: Apache-2.0
"""Multistep integrators of the noise prediction: DEIS, and Adams-Bashforth in the noise level itself."""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers.adams import mean_weights, nodes, past
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_levels import IMAGE_SDES, Levels, posterior_mean, time_of
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row


@solver(
    "deis",
    sdes=IMAGE_SDES,
    probability_flow=True,
    deterministic=True,
    orders=(2, 3, 4),
    source="Zhang & Chen 2022 (DEIS), tAB",
    finish=posterior_mean,
)
def deis(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, order: int = 3) -> list[AnyRow]:
    """x / scale <- x / scale + integral of e ds, with e the polynomial in t through its last ``order`` values."""
    levels = Levels.at(sde, grid.edges)
    # Over half the log-SNR every factor is smooth; ds is -s dl.
    at, weights = nodes(levels.half_log_snr)
    ratio = np.exp(-at)
    times = time_of(sde, ratio, grid.edges[-1], grid.edges[0])
    return _rows(levels, mean_weights(past(grid.edges, order), times, weights * ratio))


@solver(
    "ipndm",
    sdes=IMAGE_SDES,
    probability_flow=True,
    deterministic=True,
    orders=(2, 3, 4),
    source="Liu et al. 2022 (PNDM); Zhang & Chen 2022 (DEIS), rho AB",
    finish=posterior_mean,
)
def ipndm(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, order: int = 3) -> list[AnyRow]:
    """The same with a polynomial in the noise-to-signal ratio s, which is Adams-Bashforth with steps of any length."""
    levels = Levels.at(sde, grid.edges)
    return _rows(levels, mean_weights(past(levels.ratio, order), *nodes(levels.ratio)))


def _rows(levels: Levels, weights: Array) -> list[AnyRow]:
    """Steps of x / scale by the difference of s times a mean of e with ``weights`` (n, p) on the last values."""
    decay = levels.scale[1:] / levels.scale[:-1]
    outputs = (levels.scale[1:] * np.diff(levels.ratio))[:, None] * weights
    columns = zip(levels.times, levels.noise_predictions(), decay, outputs, strict=False)
    return [Row(t, derive, x, outputs=tuple(e)) for t, derive, x, e in columns]
