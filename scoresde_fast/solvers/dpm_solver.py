# SPDX-License-Identifier: Apache-2.0
"""DPM-Solver++, multistep: exponential Adams-Bashforth in data prediction (Lu et al. 2022)."""

from __future__ import annotations

from scoresde_fast.sdes import ScalarSDE
from scoresde_fast.solvers.exponential import Adams
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_levels import IMAGE_SDES, posterior_mean
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow


@solver(
    "dpmpp_2m",
    sdes=IMAGE_SDES,
    probability_flow=True,
    deterministic=True,
    orders=(2,),
    source="Lu et al. 2022 (DPM-Solver++), algorithm 2",
    finish=posterior_mean,
)
def dpmpp_2m(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """A straight line through the last two data predictions, taken at the middle of the step."""
    return Adams(2, midpoint=True).rows(sde, grid)


@solver(
    "dpmpp_3m",
    sdes=IMAGE_SDES,
    probability_flow=True,
    deterministic=True,
    orders=(3,),
    source="Lu et al. 2022 (DPM-Solver++)",
    finish=posterior_mean,
)
def dpmpp_3m(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """A parabola through the last three data predictions; the second step is one of `dpmpp_2m`."""
    return Adams(3, midpoint=True).rows(sde, grid)


@solver(
    "dpmpp_2m_sde",
    sdes=IMAGE_SDES,
    probability_flow=True,
    orders=(2,),
    source="Lu et al. 2022 (DPM-Solver++), SDE-DPM-Solver++(2M)",
    finish=posterior_mean,
)
def dpmpp_2m_sde(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, eta: float = 1.0) -> list[AnyRow]:
    """`dpmpp_2m` on the reverse SDE whose noise is ``eta`` times the paper's; its flow is `dpmpp_2m`."""
    return Adams(2, eta=0.0 if probability_flow else eta, midpoint=True).rows(sde, grid)
