# SPDX-License-Identifier: Apache-2.0
"""Singlestep methods: DDIM, Heun's method and Runge-Kutta methods of DPM-Solver++, which use no earlier steps.

DDIM and Heun's method integrate d(x / scale) = e ds, where e is the noise prediction and s the noise-to-signal ratio.
The others evaluate the data prediction x0 at stages inside the step; see `multistep` for the solution in x0.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, forward_step, posterior_mean, time_of
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row
from scoresde_fast.solvers.weights import Weights, with_weights

MAX_CHURN = np.sqrt(2) - 1
"""Largest relative growth of s before a step of Heun's method: it doubles the variance of the noise."""


@solver(
    "ddim",
    grid="karras",
    source="Song, Meng & Ermon 2020, equations 12 and 16",
    deterministic=True,
    finish=posterior_mean,
)
def ddim(
    sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, eta: float = 0.0, weights: Weights = ()
) -> list[AnyRow]:
    """scale' x0 + sqrt(std'^2 - sigma^2) e + sigma z; sigma is ``eta`` times the standard deviation of x' | x, x0.

    ``weights`` are added to the coefficients of e and of its earlier values.

    Raises:
        ValueError: ``eta`` is greater than 1, or the weights are not those of these steps.
    """
    if eta > 1:
        raise ValueError(f"eta is {eta:g}; solver 'ddim' allows at most 1, the noise of the posterior")
    schedule = NoiseSchedule.at(sde, grid.edges)
    decay = schedule.scale[1:] / schedule.scale[:-1]
    sigma = eta * schedule.std[1:] * np.sqrt(-np.expm1(-2 * schedule.h))
    direction = np.sqrt(schedule.std[1:] ** 2 - sigma**2) - decay * schedule.std[:-1]
    columns = zip(grid.times, schedule.noise_predictions(), decay, direction, sigma, strict=False)
    return with_weights([Row(t, derive, x, outputs=(e,), noise=z) for t, derive, x, e, z in columns], weights)


@solver(
    "heun",
    grid="karras",
    aliases=("edm",),
    source="Karras et al. 2022, algorithms 1 and 2",
    deterministic=True,
    orders=(2,),
    evaluations=2,
    finish=posterior_mean,
)
def heun(
    sde: ScalarSDE,
    grid: TimeGrid,
    *,
    probability_flow: bool,
    steps: int,
    churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = np.inf,
    s_noise: float = 1.0,
) -> list[AnyRow]:
    """An Euler step of x / scale in s, then the whole step again with the mean of the slopes e at both ends.

    On rectified flow it steps x in t: there the path of a sample is straight in t too, and s is very large near T.

    With ``churn`` each step that starts at an s from ``s_min`` to ``s_max`` first adds noise, which multiplies s by
    1 + min(``churn`` / ``steps``, `MAX_CHURN`), but moves t at most to T.  ``s_noise`` multiplies the noise.
    """
    gamma = min(churn / steps, MAX_CHURN)
    ends, starts = NoiseSchedule.at(sde, grid.edges[1:]), NoiseSchedule.at(sde, grid.times)
    s = starts.noise_to_signal
    churned = (gamma > 0) & (s_min <= s) & (s <= s_max) & (grid.times < sde.T)
    if churned.any():
        times = time_of(sde, s * (1 + gamma), grid.edges[-1], sde.T)
        starts = NoiseSchedule.at(sde, np.where(churned, times, grid.times))
    (unit, u, slopes), (end_unit, end_u, end_slopes) = _straight(starts), _straight(ends)
    decay, width = end_unit / unit, end_unit * (end_u - u)
    rows: list[AnyRow] = []
    for i, t in enumerate(grid.times):
        if churned[i]:
            forward = forward_step(sde, t, starts.times[i])
            assert isinstance(forward, Row)
            rows.append(replace(forward, noise=s_noise * forward.noise))
        rows.append(Row(starts.times[i], slopes[i], decay[i], outputs=(width[i],), save=True))
        rows.append(Row(ends.times[i], end_slopes[i], 0.0, saved=decay[i], outputs=(width[i] / 2, width[i] / 2)))
    return rows


def _straight(schedule: NoiseSchedule) -> tuple[Array, Array, list[tuple[float, float]]]:
    """Return ``unit``, ``u`` and the slopes by `derive`: x / unit of x = scale x(0) + std z is linear in u.

    In general these are scale, s and e; where scale + std = 1, as on rectified flow, 1, std and the velocity e - x(0).
    """
    noise = schedule.noise_predictions()
    if not np.allclose(schedule.scale + schedule.std, 1):
        return schedule.scale, schedule.noise_to_signal, noise
    velocity = [(e[0] - x0[0], e[1] - x0[1]) for e, x0 in zip(noise, schedule.data_predictions(), strict=True)]
    return np.ones_like(schedule.std), schedule.std, velocity


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
    "res",
    source="Zhang et al. 2023 (RES), algorithm 1",
    deterministic=True,
    orders=(2,),
    evaluations=2,
    finish=posterior_mean,
)
def res(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """As `dpmpp_2s`, with the exact mean of the straight line in l through both x0, as the order conditions demand."""
    start, end = NoiseSchedule.at(sde, grid.edges), NoiseSchedule.at(sde, grid.edges[1:])
    middle = start.inside_steps(1 / 2)
    decay_half, gain_half, _ = _stage(start, middle)
    decay, gain, slope = _stage(start, end)
    x0, x0_middle = start.data_predictions(), middle.data_predictions()
    rows: list[AnyRow] = []
    for i in range(len(grid)):
        rows.append(Row(start.times[i], x0[i], decay_half[i], outputs=(gain_half[i],), save=True))
        outputs = (2 * slope[i], gain[i] - 2 * slope[i])  # the line rises by twice its rise to the middle
        rows.append(Row(middle.times[i], x0_middle[i], 0.0, saved=decay[i], outputs=outputs))
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
