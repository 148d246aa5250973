# SPDX-License-Identifier: Apache-2.0
"""The noise schedule of a `ScalarSDE` in the variables that the fast solvers share.

With x(t) | x(0) ~ N(scale(t) x(0), std(t)^2) and the noise-to-signal ratio s = std / scale, the probability flow is

    d(x / scale) = e ds,        e = -std score, the noise prediction,

on every `ScalarSDE`.  Let l = -log s be half the log-SNR and x0 = E[x(0) | x] = (x + std^2 score) / scale the data
prediction.  The reverse SDE with ``eta`` times the noise of Song et al. (2021) is

    d(x / std) = -eta^2 x / std dl + (1 + eta^2) e^l x0 dl + sqrt(2) eta dw        (Lu et al. 2022; Xue et al. 2023),

as l increases; eta = 0 is the flow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scoresde_fast.sdes import CLDSDE, SDE, Array, ScalarSDE
from scoresde_fast.sdes.linalg import cholesky
from scoresde_fast.solvers.table import AnyRow, PairRow, Row


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Scale and standard deviation of the marginals at ``times``; for a grid, at its (n + 1,) edges."""

    sde: ScalarSDE
    times: Array
    scale: Array
    std: Array

    @classmethod
    def at(cls, sde: ScalarSDE, times: Array) -> NoiseSchedule:
        """Return the schedule of ``sde`` at ``times``."""
        return cls(sde, times, *sde.marginal(times))

    @property
    def noise_to_signal(self) -> Array:
        """s = std / scale."""
        return self.std / self.scale

    @property
    def half_log_snr(self) -> Array:
        """l = log(scale / std), which increases as t decreases."""
        return np.log(self.scale / self.std)

    @property
    def h(self) -> Array:
        """(n,) lengths of the steps in l, positive."""
        return np.diff(self.half_log_snr)

    def inside_steps(self, r: float) -> NoiseSchedule:
        """Return the schedule at one time inside each of the n steps, after the fraction ``r`` of its length in l."""
        s = np.exp(-(self.half_log_snr[:-1] + r * self.h))
        return NoiseSchedule.at(self.sde, time_of(self.sde, s, self.times[-1], self.times[0]))

    def towards(self, other: NoiseSchedule, place: float) -> NoiseSchedule:
        """Return the schedule at the fraction ``place`` of the way from each time here to that of ``other``, in s."""
        if place in (0, 1):
            return other if place else self
        s = (1 - place) * self.noise_to_signal + place * other.noise_to_signal
        return NoiseSchedule.at(self.sde, time_of(self.sde, s, other.times[-1], self.times[0]))

    def noise_predictions(self) -> list[tuple[float, float]]:
        """Return the coefficients `Row.derive` of e = -std score at each time."""
        return [(0.0, -std) for std in self.std]

    def data_predictions(self) -> list[tuple[float, float]]:
        """Return the coefficients `Row.derive` of x0 = (x + std^2 score) / scale (Tweedie's formula) at each time."""
        return list(zip(1 / self.scale, self.std**2 / self.scale, strict=True))

    def angle(self, sigma_data: float) -> Array:
        """TrigFlow's time: the angle whose tangent is s / ``sigma_data``, which falls from nearly pi / 2 to 0."""
        return np.arctan(self.noise_to_signal / sigma_data)

    def velocity_predictions(self, sigma_data: float) -> list[tuple[float, float]]:
        """Return the coefficients `Row.derive` of v = cos(angle) e - sin(angle) x0 / ``sigma_data`` at each time."""
        radius = np.hypot(sigma_data, self.noise_to_signal)  # cosines of angles near pi / 2 lose digits
        cos, sin = sigma_data / radius, self.noise_to_signal / radius
        return list(zip(-sin / (sigma_data * self.scale), -self.std / cos, strict=True))


def time_of(sde: SDE, noise_to_signal: Array, low: float, high: float) -> Array:
    """Return the times in [low, high] at which std / scale has the values ``noise_to_signal`` (any shape)."""
    return invert(sde.noise_to_signal, noise_to_signal, low, high)


def invert(increasing: Callable[[Array], Array], values: Array, low: float, high: float) -> Array:
    """Return t in [low, high] with increasing(t) = value for each of ``values``, by bisection to the last bit."""
    lower, upper = np.full_like(values, low), np.full_like(values, high)
    for _ in range(64):
        middle = (lower + upper) / 2
        below = increasing(middle) < values
        lower, upper = np.where(below, middle, lower), np.where(below, upper, middle)
    return (lower + upper) / 2


def posterior_mean(sde: ScalarSDE, t: float, dt: float) -> Row:
    """Return the denoising row E[x(0) | x(t)], the first-order step to s = 0 of every solver here; ``dt`` is unused."""
    return Row(t, derive=NoiseSchedule.at(sde, np.array([t])).data_predictions()[0], state=0.0, outputs=(1.0,))


def starting_row(sde: ScalarSDE, start: float) -> Row:
    """Return a row without an evaluation that scales the prior to N(0, std(start)^2), where the run starts."""
    return Row(sde.T, derive=None, state=float(sde.marginal(start).std) / sde.prior_std)


def forward_step(sde: SDE, start: float, stop: float) -> AnyRow:
    """Return a row without an evaluation that goes forward from ``start`` to ``stop`` by the transition kernel."""
    if isinstance(sde, CLDSDE):
        mean, covariance = sde.transition(start, stop)
        return PairRow(start, derive=None, state=mean, noise=cholesky(covariance))
    assert isinstance(sde, ScalarSDE)
    scale, std = sde.transition(start, stop)
    return Row(start, derive=None, state=float(scale), noise=float(std))
