# SPDX-License-Identifier: Apache-2.0
"""ER-SDE-Solver (Cui et al. 2023): multistep methods on an extended reverse SDE, whose noise grows with s.

Every reverse process with the marginals of the SDE has, for y = x / scale and an increasing function phi, the solution

    y' = phi(s') / phi(s) y + phi(s') integral of x0 d(1 / phi) + sqrt(s'^2 - s^2 phi(s')^2 / phi(s)^2) z.

phi(s) = s is the probability flow and phi(s) = s^2 the reverse SDE.  The paper's choice, phi(s) = s (exp(s^0.3) + 10),
has much noise where s is large, and almost none near the data.
"""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers.adams import gauss_legendre
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, posterior_mean
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row


@solver(
    "er_sde",
    source="Cui et al. 2023 (ER-SDE-Solver)",
    orders=(1, 2, 3),
    highest_order=2,
    finish=posterior_mean,
)
def er_sde(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, order: int = 2, eta: float = 1.0) -> list[AnyRow]:
    """x0 is its Taylor polynomial in s at the start of the step, with derivatives from differences of past values.

    The second derivative is the difference of the last two slopes, divided by half the length of two steps.  The
    integrals of 1, (s - s_start) and (s - s_start)^2 / 2 are computed by Gauss-Legendre quadrature in l.  ``eta`` is
    the strength of the noise relative to the paper's: phi(s) = s (exp(s^0.3) + 10)^(eta^2).
    """
    schedule = NoiseSchedule.at(sde, grid.edges)
    eta = 0.0 if probability_flow else eta
    s, log_noise = schedule.noise_to_signal, _log_noise(schedule.noise_to_signal, eta)
    noise = schedule.std[1:] * np.sqrt(-np.expm1(2 * np.diff(log_noise)))
    log_phi = log_noise - schedule.half_log_snr
    decay = schedule.scale[1:] / schedule.scale[:-1] * np.exp(np.diff(log_phi))
    slope, curvature = _moments(schedule, log_phi, eta)
    per_step, per_two_steps = np.zeros((2, len(grid)))
    per_step[1:] = 1 / np.diff(s[:-1]) if order > 1 else 0.0
    per_two_steps[2:] = 2 / (s[2:-1] - s[:-3]) if order > 2 else 0.0
    newest = (slope + curvature * per_two_steps) * per_step
    oldest = curvature * per_two_steps * np.append(0.0, per_step[:-1])
    weights = np.stack([newest - np.expm1(np.diff(log_phi)), -newest - oldest, oldest][:order], axis=1)
    outputs = schedule.scale[1:, None] * weights
    columns = zip(grid.times, schedule.data_predictions(), decay, outputs, noise, strict=False)
    return [Row(t, derive, x, outputs=tuple(y), noise=z) for t, derive, x, y, z in columns]


def _log_noise(s: Array, eta: float) -> Array:
    """Return log(phi / s)."""
    return eta**2 * np.logaddexp(s**0.3, np.log(10))


def _moments(schedule: NoiseSchedule, log_phi: Array, eta: float) -> tuple[Array, Array]:
    """Return phi' times the integrals of (s - s_start) and (s - s_start)^2 / 2 over 1 / phi, for each step."""
    nodes, widths = gauss_legendre(schedule.half_log_snr)
    s = np.exp(-nodes)
    growth = 1 + eta**2 * 0.3 * s**0.3 / (1 + 10 * np.exp(-(s**0.3)))  # d log phi / d log s
    density = widths * growth * np.exp(log_phi[1:, None] - (_log_noise(s, eta) - nodes))
    change = s - schedule.noise_to_signal[:-1, None]
    return (density * change).sum(1), (density * change**2).sum(1) / 2
