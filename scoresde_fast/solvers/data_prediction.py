# SPDX-License-Identifier: Apache-2.0
"""Solvers in data prediction: DPM-Solver++, UniPC and SA-Solver.

With h the length of a step in l, half the log-SNR, and noise of the relative size ``eta``, the equation of
`noise_schedule` has the solution

    x' = std' / std exp(-eta^2 h) x + scale' (1 - exp(-(1 + eta^2) h)) m + std' sqrt(1 - exp(-2 eta^2 h)) z,

where m is the mean of x0 over the step with the weight exp((1 + eta^2) l).  Multistep methods replace x0 by the
polynomial through its last values: a predictor uses the values up to the start of the step, a corrector also the value
at its end.  Predictor and corrector have the same coefficient of x and the same noise z, so the corrected state is the
predicted one plus a combination of outputs.  The row of the next step adds this combination, so that a step costs one
evaluation.  Singlestep methods (Runge-Kutta) evaluate x0 at stages inside the step.
"""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers.adams import evaluation_points, gauss_legendre, lagrange, mean_weights
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
    return _adams_rows(sde, grid, 2, midpoint=True)


@solver("dpmpp_3m", source="Lu et al. 2022 (DPM-Solver++)", deterministic=True, orders=(3,), finish=posterior_mean)
def dpmpp_3m(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """m is the mean of the parabola through the last three x0; the second step is one of `dpmpp_2m`."""
    return _adams_rows(sde, grid, 3, midpoint=True)


@solver(
    "dpmpp_2m_sde", source="Lu et al. 2022 (DPM-Solver++), SDE-DPM-Solver++(2M)", orders=(2,), finish=posterior_mean
)
def dpmpp_2m_sde(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, eta: float = 1.0) -> list[AnyRow]:
    """`dpmpp_2m` on the reverse SDE with ``eta`` times the noise."""
    return _adams_rows(sde, grid, 2, eta=0.0 if probability_flow else eta, midpoint=True)


@solver(
    "unipc",
    source="Zhao et al. 2023 (UniPC), B(h) = e^h - 1",
    deterministic=True,
    orders=(1, 2, 3),
    corrected=True,
    finish=posterior_mean,
)
def unipc(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, order: int = 2) -> list[AnyRow]:
    """UniPC-p in data prediction; the last state is not corrected: that would need another evaluation."""
    return _adams_rows(sde, grid, order, corrector=True, midpoint=True)


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
    """Stochastic Adams predictor and corrector with constant tau = ``eta``, and the same noise in both."""
    return _adams_rows(sde, grid, order, corrector=True, eta=0.0 if probability_flow else eta)


def _adams_rows(
    sde: ScalarSDE, grid: TimeGrid, order: int, *, corrector: bool = False, eta: float = 0.0, midpoint: bool = False
) -> list[AnyRow]:
    """Return one row per step of a multistep method; the first steps use the past values that exist.

    The predictor interpolates ``order`` values, the corrector one more.  ``midpoint`` takes the polynomial through two
    values at the middle of the step instead of its exact mean, as published for DPM-Solver++ and for UniPC with
    B(h) = e^h - 1; the order is the same.
    """
    schedule = NoiseSchedule.at(sde, grid.edges)
    exponent = eta**2 * schedule.h
    decay = schedule.std[1:] / schedule.std[:-1] * np.exp(-exponent)
    noise = schedule.std[1:] * np.sqrt(-np.expm1(-2 * exponent))
    outputs = _adams_weights(schedule, order, eta, midpoint=midpoint)
    if corrector:
        corrected = _adams_weights(schedule, order + 1, eta, midpoint=midpoint, ahead=True)
        predicted = np.pad(outputs, ((0, 0), (1, 0)))
        outputs = np.pad(outputs, ((0, 0), (0, 1)))
        outputs[1:] += decay[1:, None] * (corrected - predicted)[:-1]
    columns = zip(schedule.times, schedule.data_predictions(), decay, outputs, noise, strict=False)
    return [Row(t, derive, x, outputs=tuple(x0), noise=z) for t, derive, x, x0, z in columns]


def _adams_weights(schedule: NoiseSchedule, count: int, eta: float, *, midpoint: bool, ahead: bool = False) -> Array:
    """Return the weights (n, count) of x0, newest first: the newest is at the step's start, with ``ahead`` its end."""
    edges, rate = schedule.half_log_snr, 1 + eta**2
    points = evaluation_points(edges, count, ahead=ahead)
    nodes, weights = gauss_legendre(edges)
    means = mean_weights(points, nodes, weights * np.exp(rate * (nodes - edges[1:, None])))
    if midpoint:
        lines = np.isfinite(points).sum(1) == 2
        middle = (edges[:-1] + edges[1:])[lines, None] / 2
        means[lines] = lagrange(points[lines], middle)[:, 0]
    return (schedule.scale[1:] * -np.expm1(-rate * schedule.h))[:, None] * means


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
    decay_half, gain_half, _ = _stage(start, middle)
    decay, gain, _ = _stage(start, end)
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
    decay_1, gain_1, _ = _stage(start, first)
    decay_2, gain_2, slope_2 = _stage(start, second)
    decay_3, gain_3, slope_3 = _stage(start, end)
    # The previous x0 is at 1/2 of stage 2 and at 2/3 of stage 3: scale its difference from the first x0 to the end.
    slope_2, slope_3 = slope_2 * 2, slope_3 * 1.5
    x0, x0_first, x0_second = (schedule.data_predictions() for schedule in (start, first, second))
    rows: list[AnyRow] = []
    for i in range(len(grid)):
        rows.append(Row(start.times[i], x0[i], decay_1[i], outputs=(gain_1[i],), save=True))
        outputs = (slope_2[i], gain_2[i] - slope_2[i])
        rows.append(Row(first.times[i], x0_first[i], 0.0, saved=decay_2[i], outputs=outputs))
        outputs_3 = (slope_3[i], 0.0, gain_3[i] - slope_3[i])
        rows.append(Row(second.times[i], x0_second[i], 0.0, saved=decay_3[i], outputs=outputs_3))
    return rows


def _stage(start: NoiseSchedule, end: NoiseSchedule) -> tuple[Array, Array, Array]:
    """Return coefficients (n,), from each start to ``end``, of x, of a constant x0 and of an x0 rising from 0 to 1."""
    h = end.half_log_snr - start.half_log_snr[:-1]
    gain = end.scale * -np.expm1(-h)
    return end.std / start.std[:-1], gain, end.scale - gain / h
