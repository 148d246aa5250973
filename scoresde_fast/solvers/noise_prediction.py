# SPDX-License-Identifier: Apache-2.0
"""Solvers in noise prediction: DDIM, DEIS, iPNDM and Heun's method.

They integrate d(x / scale) = e ds, where e is the noise prediction and s the noise-to-signal ratio.  DDIM takes e as
constant in a step; DEIS and iPNDM take the polynomial through its last values, and Heun's method the mean of its values
at both ends.
"""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers.adams import evaluation_points, gauss_legendre, mean_weights
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, forward_step, posterior_mean, time_of
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row

MAX_CHURN = np.sqrt(2) - 1
"""Largest relative growth of s before a step of Heun's method: it doubles the variance of the noise."""


@solver("ddim", source="Song, Meng & Ermon 2020, equations 12 and 16", deterministic=True, finish=posterior_mean)
def ddim(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, eta: float = 0.0) -> list[AnyRow]:
    """scale' x0 + sqrt(std'^2 - sigma^2) e + sigma z; sigma is ``eta`` times the standard deviation of x' | x, x0.

    Raises:
        ValueError: ``eta`` is greater than 1.
    """
    if eta > 1:
        raise ValueError(f"eta is {eta:g}; solver 'ddim' allows at most 1, the noise of the posterior")
    schedule = NoiseSchedule.at(sde, grid.edges)
    decay = schedule.scale[1:] / schedule.scale[:-1]
    sigma = eta * schedule.std[1:] * np.sqrt(-np.expm1(-2 * schedule.h))
    direction = np.sqrt(schedule.std[1:] ** 2 - sigma**2) - decay * schedule.std[:-1]
    columns = zip(grid.times, schedule.noise_predictions(), decay, direction, sigma, strict=False)
    return [Row(t, derive, x, outputs=(e,), noise=z) for t, derive, x, e, z in columns]


@solver("deis", source="Zhang & Chen 2022 (DEIS), tAB", deterministic=True, orders=(2, 3, 4), finish=posterior_mean)
def deis(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, order: int = 3) -> list[AnyRow]:
    """x / scale <- x / scale + integral of e ds, with e the polynomial in t through its last ``order`` values."""
    schedule = NoiseSchedule.at(sde, grid.edges)
    # Quadrature in l = -log s, in which all factors are smooth; ds = -s dl.
    l, weights = gauss_legendre(schedule.half_log_snr)  # noqa: E741
    s = np.exp(-l)
    times = time_of(sde, s, grid.edges[-1], grid.edges[0])
    return _adams_rows(schedule, mean_weights(evaluation_points(grid.edges, order), times, weights * s))


@solver(
    "ipndm",
    source="Liu et al. 2022 (PNDM); Zhang & Chen 2022 (DEIS), rho AB",
    deterministic=True,
    orders=(2, 3, 4),
    finish=posterior_mean,
)
def ipndm(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, order: int = 3) -> list[AnyRow]:
    """As `deis`, with a polynomial in s: Adams-Bashforth for steps of any length."""
    schedule = NoiseSchedule.at(sde, grid.edges)
    s = schedule.noise_to_signal
    return _adams_rows(schedule, mean_weights(evaluation_points(s, order), *gauss_legendre(s)))


def _adams_rows(schedule: NoiseSchedule, weights: Array) -> list[AnyRow]:
    """Return steps in which e is replaced by its mean: the last values of e, weighted by ``weights`` (n, p)."""
    decay = schedule.scale[1:] / schedule.scale[:-1]
    outputs = (schedule.scale[1:] * np.diff(schedule.noise_to_signal))[:, None] * weights
    columns = zip(schedule.times, schedule.noise_predictions(), decay, outputs, strict=False)
    return [Row(t, derive, x, outputs=tuple(e)) for t, derive, x, e in columns]


@solver(
    "heun",
    aliases=("edm",),
    source="Karras et al. 2022, algorithms 1 and 2",
    deterministic=True,
    orders=(2,),
    evaluations=2,
    finish=posterior_mean,
)
def heun(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, steps: int, churn: float = 0.0) -> list[AnyRow]:
    """An Euler step of x / scale in s, then the whole step again with the mean of the slopes e at both ends.

    On rectified flow it steps x in t: there the path of a sample is straight in t too, and s is very large near T.

    With ``churn`` each step first adds noise, which multiplies s by 1 + min(``churn`` / ``steps``, `MAX_CHURN`), but
    moves t at most to T.
    """
    gamma = min(churn / steps, MAX_CHURN)
    ends, starts = NoiseSchedule.at(sde, grid.edges[1:]), NoiseSchedule.at(sde, grid.times)
    if gamma:
        s_hat = starts.noise_to_signal * (1 + gamma)
        starts = NoiseSchedule.at(sde, time_of(sde, s_hat, grid.edges[-1], sde.T))
    (unit, u, slopes), (end_unit, end_u, end_slopes) = _straight(starts), _straight(ends)
    decay, width = end_unit / unit, end_unit * (end_u - u)
    rows: list[AnyRow] = []
    for i, t in enumerate(grid.times):
        if gamma and t < sde.T:
            rows.append(forward_step(sde, t, starts.times[i]))
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
