# SPDX-License-Identifier: Apache-2.0
"""SA-Solver: stochastic Adams predictor and corrector (Xue et al. 2023)."""

from __future__ import annotations

from scoresde_fast.sdes import ScalarSDE
from scoresde_fast.solvers.exponential import Adams
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_levels import IMAGE_SDES, posterior_mean
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow


@solver(
    "sa",
    sdes=IMAGE_SDES,
    probability_flow=True,
    orders=(1, 2, 3),
    corrected=True,
    weak_order=2,
    source="Xue et al. 2023 (SA-Solver)",
    aliases=("sa_solver",),
    finish=posterior_mean,
)
def sa(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, order: int = 2, eta: float = 1.0) -> list[AnyRow]:
    """Adams-Bashforth and Adams-Moulton steps on the reverse SDE with a constant tau = ``eta``, which share a noise."""
    return Adams(order, corrector=True, eta=0.0 if probability_flow else eta).rows(sde, grid)
