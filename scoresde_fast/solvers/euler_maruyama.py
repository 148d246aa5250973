# SPDX-License-Identifier: Apache-2.0
"""Euler-Maruyama on the reverse SDE; Euler on the probability flow."""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import SDE, VESDE, VPSDE, SubVPSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import Row


@solver(
    "euler_maruyama",
    sdes=(VESDE, VPSDE, SubVPSDE),
    order=1,
    flow=True,
    source="Song et al. 2021, section 4.1",
    aliases=("em",),
)
def euler_maruyama(sde: SDE, grid: TimeGrid, *, flow: bool) -> list[Row]:
    """x <- x - [f(t) x - g(t)^2 score] dt + g(t) sqrt(dt) z; with ``flow`` half the score and no noise."""
    drift_x, drift_score, diffusion = sde.reverse(grid.times, flow=flow)
    columns = zip(grid.times, 1 - drift_x * grid.dt, -drift_score * grid.dt, diffusion * np.sqrt(grid.dt), strict=True)
    return [Row(t, state=x, outputs=(score,), noise=noise) for t, x, score, noise in columns]
