# SPDX-License-Identifier: Apache-2.0
"""UniPC and SA-Solver: exponential Adams predictors with a corrector that costs no extra evaluation."""

from __future__ import annotations

from scoresde_fast.sdes import ScalarSDE
from scoresde_fast.solvers.adams import ExponentialAdams
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import posterior_mean
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow


@solver(
    "unipc",
    source="Zhao et al. 2023 (UniPC), B(h) = e^h - 1",
    deterministic=True,
    orders=(1, 2, 3),
    corrected=True,
    finish=posterior_mean,
)
def unipc(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, order: int = 2) -> list[AnyRow]:
    """UniPC-p in data prediction; the last state is not corrected, which would need an evaluation at its time."""
    return ExponentialAdams(order, corrector=True, midpoint=True).rows(sde, grid)


@solver(
    "sa",
    aliases=("sa_solver",),
    source="Xue et al. 2023 (SA-Solver)",
    orders=(1, 2, 3),
    corrected=True,
    weak_order=2,
    finish=posterior_mean,
)
def sa(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, order: int = 2, eta: float = 1.0) -> list[AnyRow]:
    """Stochastic Adams predictor and corrector with constant tau = ``eta`` and the same noise."""
    return ExponentialAdams(order, corrector=True, eta=0.0 if probability_flow else eta).rows(sde, grid)
