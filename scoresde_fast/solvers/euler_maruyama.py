# SPDX-License-Identifier: Apache-2.0
"""Euler-Maruyama on the reverse-time SDE, or Euler on its probability flow."""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, Array, ScalarSDE, SubVPSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import IDENTITY, AnyRow, PairRow, Row


def euler_mean(sde: CLDSDE, t: float, dt: float, *, flow: bool = False) -> PairRow:
    """The mean of a step of ``dt`` from t on pairs: what CLD's runs end with (Dockhorn et al. 2022, appendix)."""
    gain = (1 if flow else 2) * sde.damping * float(sde.beta(t))
    return PairRow(t, state=IDENTITY - sde.drift(t) * dt, outputs=(gain * dt * IDENTITY,))


@solver(
    "euler_maruyama",
    sdes=(VESDE, VPSDE, SubVPSDE, CLDSDE),
    flow=True,
    source="Song et al. 2021, section 4.1",
    aliases=("em",),
    finish=euler_mean,
    published=True,
    correctable=True,
)
def euler_maruyama(sde: SDE, grid: TimeGrid, *, flow: bool) -> list[AnyRow]:
    """x <- x - [f(t) x - g(t)^2 score] dt + g(t) sqrt(dt) z; with ``flow`` half the score and no noise."""
    if isinstance(sde, CLDSDE):
        return [_pair_step(sde, t, dt, flow) for t, dt in zip(grid.times, grid.dt, strict=True)]
    assert isinstance(sde, ScalarSDE)
    drift_x, drift_score, diffusion = sde.reverse(grid.times, flow=flow)
    columns = zip(grid.times, 1 - drift_x * grid.dt, -drift_score * grid.dt, diffusion * np.sqrt(grid.dt), strict=True)
    return [Row(t, state=x, outputs=(score,), noise=noise) for t, x, score, noise in columns]


def _pair_step(sde: CLDSDE, t: float, dt: float, flow: bool) -> PairRow:
    mean = euler_mean(sde, t, dt, flow=flow)
    noise: Array = np.diag([0.0, float(sde.diffusion(t)) * np.sqrt(dt) * (not flow)])
    return PairRow(t, state=mean.state, outputs=mean.outputs, noise=noise)
