# SPDX-License-Identifier: Apache-2.0
"""Exact solutions over the steps of a grid, in terms of the mean of a prediction of the network over each step.

With h the length of a step in l, half the log-SNR, the equations of `noise_schedule` have the solutions

    x' = scale' / scale x + scale' (s' - s) m,                                             in noise prediction,
    x' = std' / std exp(-eta^2 h) x + scale' (1 - exp(-(1 + eta^2) h)) m
         + std' sqrt(1 - exp(-2 eta^2 h)) z,                                               in data prediction,
    x' = scale' r' (x / (scale r) + (angle' - angle) m),     r^2 = sigma_data^2 + s^2,     in velocity prediction,
    x' = scale' / scale exp(L - L') x - scale' (integral of exp(L(l) - L' + S(l)) dl) m,   in empirical prediction,

where L and S are integrals of statistics of a model, and m is the mean over the step of e with the weight exp(-l), of
x0 with the weight exp((1 + eta^2) l), of v over the angle, or of g with the weight exp(L + S).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scoresde_fast.sdes import Array
from scoresde_fast.solvers.adams import gauss_legendre
from scoresde_fast.solvers.noise_schedule import NoiseSchedule


@dataclass(frozen=True, eq=False)
class ExactSteps:
    """The solution x' = ``decay`` x + ``gain`` m + ``noise`` z over each of n steps.

    Attributes:
        schedule: the noise schedule at the edges of the steps.
        derive: coefficients `Row.derive` of the prediction at each edge.
        decay, gain, noise: (n,) coefficients.
        log_weight: logarithm, up to a constant, of the weight of the mean m as a function of l.
        rate: the exponent of a weight exp(rate l); None for other weights.
        sigma_data: the standard deviation of the data in velocity prediction.
    """

    schedule: NoiseSchedule
    derive: list[tuple[float, float]]
    decay: Array
    gain: Array
    noise: Array
    log_weight: Callable[[Array], Array]
    rate: float | None = None
    sigma_data: float = 1.0


def in_noise_prediction(schedule: NoiseSchedule) -> ExactSteps:
    """Return the steps of the probability flow, where m is the mean of e."""
    scale, s = schedule.scale, schedule.noise_to_signal
    decay, gain = scale[1:] / scale[:-1], scale[1:] * np.diff(s)
    return _exponential(schedule, schedule.noise_predictions(), decay, gain, np.zeros_like(decay), rate=-1.0)


def in_data_prediction(schedule: NoiseSchedule, eta: float = 0.0) -> ExactSteps:
    """Return the steps of the reverse SDE with ``eta`` times the noise, where m is the mean of x0."""
    exponent, rate = eta**2 * schedule.h, 1 + eta**2
    decay = schedule.std[1:] / schedule.std[:-1] * np.exp(-exponent)
    gain = schedule.scale[1:] * -np.expm1(-rate * schedule.h)
    noise = schedule.std[1:] * np.sqrt(-np.expm1(-2 * exponent))
    return _exponential(schedule, schedule.data_predictions(), decay, gain, noise, rate)


def in_velocity_prediction(schedule: NoiseSchedule, sigma_data: float) -> ExactSteps:
    """Return the steps of the probability flow, where m is the mean of v for data of the deviation ``sigma_data``."""
    angle, radius = schedule.angle(sigma_data), schedule.scale * np.hypot(sigma_data, schedule.noise_to_signal)
    return ExactSteps(
        schedule,
        schedule.velocity_predictions(sigma_data),
        decay=radius[1:] / radius[:-1],
        gain=radius[1:] * np.diff(angle),
        noise=np.zeros(len(angle) - 1),
        log_weight=lambda half_log_snr: -np.log(np.cosh(half_log_snr + np.log(sigma_data))),  # of d angle / dl
        sigma_data=sigma_data,
    )


def _exponential(
    schedule: NoiseSchedule, derive: list[tuple[float, float]], decay: Array, gain: Array, noise: Array, rate: float
) -> ExactSteps:
    return ExactSteps(schedule, derive, decay, gain, noise, lambda half_log_snr: rate * half_log_snr, rate)


def in_empirical_prediction(schedule: NoiseSchedule, statistics: Sequence[Sequence[float]]) -> ExactSteps:
    """Return the steps of the probability flow, where m is the mean of g (Zheng et al. 2023, proposition 3.1).

    With y = x / scale the flow is dy/dl = -s e.  A model has linear coefficients ``c(l)``, with which the rest f = s e
    - c y depends least on y, and growth rates ``r(l)``, with which df/dl is nearest to r f.  With the integrals L of c
    and S of r, g = exp(-S) f changes least.

    Args:
        schedule: the schedule at the edges of the steps.
        statistics: rows (l, c, r), with rising l; between them c and r are linear, beyond them constant.
    """
    at, linear, rate = np.array(statistics).T
    edges = schedule.half_log_snr
    nodes, widths = gauss_legendre(edges)

    def exponent(half_log_snr: Array) -> Array:
        return integral(at, linear, half_log_snr) + integral(at, rate, half_log_snr)

    whole = integral(at, linear, edges)
    kept, scale = np.exp(-np.diff(whole)), schedule.scale
    growth = np.exp(-integral(at, rate, edges)) / scale
    area = (widths * np.exp(exponent(nodes) - whole[1:, None])).sum(1)
    return ExactSteps(
        schedule,
        list(zip(-np.interp(edges, at, linear) * growth, -(schedule.std**2) * growth, strict=True)),
        decay=scale[1:] / scale[:-1] * kept,
        gain=-scale[1:] * area,
        noise=np.zeros(len(kept)),
        log_weight=exponent,
    )


def integral(at: Array, values: Array, upto: Array) -> Array:
    """Return the integral from ``at[0]`` to ``upto`` (any shape) of the line through the points (at, values).

    Beyond the first and the last point (n,) the values are constant.
    """
    sums = np.append(0.0, np.cumsum(np.diff(at) * (values[1:] + values[:-1]) / 2))
    index = np.clip(np.searchsorted(at, upto, side="right") - 1, 0, len(at) - 1)
    return sums[index] + (upto - at[index]) * (values[index] + np.interp(upto, at, values)) / 2
