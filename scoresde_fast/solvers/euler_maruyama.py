# SPDX-License-Identifier: Apache-2.0
"""Euler-Maruyama on the reverse-time SDE, or Euler on its probability flow."""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, Array, ScalarSDE, SubVPSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import IDENTITY, AnyRow, PairRow, Row


def euler_mean(sde: CLDSDE, t: float, dt: float, *, probability_flow: bool = False) -> PairRow:
    """The mean of a step of ``dt`` from t on pairs: what CLD's runs end with (Dockhorn et al. 2022, appendix)."""
    gain = (1 if probability_flow else 2) * sde.damping * float(sde.beta(t))
    return PairRow(t, state=IDENTITY - sde.drift(t) * dt, outputs=(gain * dt * IDENTITY,))


@solver(
    "euler_maruyama",
    sdes=(VESDE, VPSDE, SubVPSDE, CLDSDE),
    probability_flow=True,
    source="Song et al. 2021, section 4.1",
    aliases=("em",),
    finish=euler_mean,
    published=True,
    correctable=True,
)
def euler_maruyama(sde: SDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """x <- x - [f(t) x - g(t)^2 score] dt + g(t) sqrt(dt) z; with ``probability_flow`` half the score and no noise."""
    if isinstance(sde, CLDSDE):
        return [_pair_step(sde, t, dt, probability_flow) for t, dt in zip(grid.times, grid.dt, strict=True)]
    assert isinstance(sde, ScalarSDE)
    drift_x, drift_score, diffusion = sde.reverse(grid.times, probability_flow=probability_flow)
    columns = zip(grid.times, 1 - drift_x * grid.dt, -drift_score * grid.dt, diffusion * np.sqrt(grid.dt), strict=True)
    return [Row(t, state=x, outputs=(score,), noise=noise) for t, x, score, noise in columns]


def _pair_step(sde: CLDSDE, t: float, dt: float, probability_flow: bool) -> PairRow:
    mean = euler_mean(sde, t, dt, probability_flow=probability_flow)
    noise: Array = np.diag([0.0, float(sde.diffusion(t)) * np.sqrt(dt) * (not probability_flow)])
    return PairRow(t, state=mean.state, outputs=mean.outputs, noise=noise)
