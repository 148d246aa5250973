# SPDX-License-Identifier: Apache-2.0
"""DPM-Solver++ (Lu et al. 2022): exponential integrators in data prediction, multistep and singlestep.

With h the length of a step in l, half the log-SNR, every step and stage is

    x' = std' / std x + scale' (1 - e^-h) m,

where m is a mean of x0 from past evaluations (multistep, Adams-Bashforth) or from stages (singlestep, Runge-Kutta).
"""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers.adams import ExponentialAdams
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, posterior_mean
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row


@solver(
    "dpmpp_2m",
    source="Lu et al. 2022 (DPM-Solver++), algorithm 2",
    deterministic=True,
    orders=(2,),
    finish=posterior_mean,
)
def dpmpp_2m(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """m is the straight line through the last two x0, at the middle of the step."""
    return ExponentialAdams(2, midpoint=True).rows(sde, grid)


@solver("dpmpp_3m", source="Lu et al. 2022 (DPM-Solver++)", deterministic=True, orders=(3,), finish=posterior_mean)
def dpmpp_3m(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """m is the mean of the parabola through the last three x0; the second step is one of `dpmpp_2m`."""
    return ExponentialAdams(3, midpoint=True).rows(sde, grid)


@solver(
    "dpmpp_2m_sde",
    source="Lu et al. 2022 (DPM-Solver++), SDE-DPM-Solver++(2M)",
    orders=(2,),
    finish=posterior_mean,
)
def dpmpp_2m_sde(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, eta: float = 1.0) -> list[AnyRow]:
    """`dpmpp_2m` on the reverse SDE with ``eta`` times the noise."""
    return ExponentialAdams(2, eta=0.0 if probability_flow else eta, midpoint=True).rows(sde, grid)


@solver(
    "dpmpp_2s",
    source="Lu et al. 2022 (DPM-Solver++), algorithm 1",
    deterministic=True,
    orders=(2,),
    evaluations=2,
    finish=posterior_mean,
)
def dpmpp_2s(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """A first-order step to the middle of the step, then the whole step with the x0 evaluated there."""
    start, end = NoiseSchedule.at(sde, grid.edges), NoiseSchedule.at(sde, grid.edges[1:])
    middle = start.inside_steps(1 / 2)
    decay_half, gain_half, _ = _coefficients(start, middle)
    decay, gain, _ = _coefficients(start, end)
    x0, x0_middle = start.data_predictions(), middle.data_predictions()
    rows: list[AnyRow] = []
    for i in range(len(grid)):
        rows.append(Row(start.times[i], x0[i], decay_half[i], outputs=(gain_half[i],), save=True))
        rows.append(Row(middle.times[i], x0_middle[i], 0.0, saved=decay[i], outputs=(gain[i],)))
    return rows


@solver(
    "dpmpp_3s",
    source="Lu et al. 2022 (DPM-Solver), algorithm 2, in data prediction",
    deterministic=True,
    orders=(3,),
    evaluations=3,
    finish=posterior_mean,
)
def dpmpp_3s(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """Stages after 1/3 and 2/3 of the step; each uses the line through x0 at the start and at the previous stage."""
    start, end = NoiseSchedule.at(sde, grid.edges), NoiseSchedule.at(sde, grid.edges[1:])
    first, second = start.inside_steps(1 / 3), start.inside_steps(2 / 3)
    decay_1, gain_1, _ = _coefficients(start, first)
    decay_2, gain_2, slope_2 = _coefficients(start, second)
    decay_3, gain_3, slope_3 = _coefficients(start, end)
    # The previous stage is after 1/2 of stage 2 and after 2/3 of stage 3: extend the difference to the end.
    slope_2, slope_3 = slope_2 * 2, slope_3 * 1.5
    x0, x0_first, x0_second = (schedule.data_predictions() for schedule in (start, first, second))
    rows: list[AnyRow] = []
    for i in range(len(grid)):
        rows.append(Row(start.times[i], x0[i], decay_1[i], outputs=(gain_1[i],), save=True))
        outputs = (slope_2[i], gain_2[i] - slope_2[i])
        rows.append(Row(first.times[i], x0_first[i], 0.0, saved=decay_2[i], outputs=outputs))
        at_end = (slope_3[i], 0.0, gain_3[i] - slope_3[i])
        rows.append(Row(second.times[i], x0_second[i], 0.0, saved=decay_3[i], outputs=at_end))
    return rows


def _coefficients(start: NoiseSchedule, end: NoiseSchedule) -> tuple[Array, Array, Array]:
    """Return coefficients (n,) from each step's start to ``end``: of x, of a constant x0, of x0 rising from 0 to 1."""
    h = end.half_log_snr - start.half_log_snr[:-1]
    gain = end.scale * -np.expm1(-h)
    return end.std / start.std[:-1], gain, end.scale - gain / h
