# SPDX-License-Identifier: Apache-2.0
"""The one description of VE, VP and sub-VP that the fast solvers share.

With x(t) | x(0) ~ N(scale(t) x(0), std(t)^2) and s = std / scale, the noise-to-signal ratio, the probability flow is

    d(x / scale) = e ds,        e = -std score, the noise prediction,

on every SDE here; with l = -log s, half the log of the signal-to-noise ratio, and the data prediction
x0 = E[x(0) | x] = (x + std^2 score) / scale, the reverse SDE whose noise is ``eta`` times that of the paper's is

    d(x / std) = -eta^2 x / std dl + (1 + eta^2) e^l x0 dl + sqrt(2) eta dw        (Lu et al. 2022; Xue et al. 2023),

as l rises; eta = 0 is the flow again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, Array, ScalarSDE, SubVPSDE
from scoresde_fast.sdes.pairs import cholesky
from scoresde_fast.solvers.table import AnyRow, PairRow, Row

IMAGE_SDES = (VESDE, VPSDE, SubVPSDE)
"""Where the fast solvers are defined."""


def noise_to_signal(sde: SDE, t: Array) -> Array:
    """std / scale at times of any shape; CLD's are those of the position."""
    if isinstance(sde, CLDSDE):
        mean, covariance = sde.marginal(t)
        return np.sqrt(covariance[..., 0, 0]) / mean[..., 0, 0]
    assert isinstance(sde, ScalarSDE)
    scale, std = sde.marginal(t)
    return std / scale


def time_of(sde: SDE, ratio: Array, low: float, high: float) -> Array:
    """The t in [low, high] where std / scale is ``ratio``, of any shape."""
    return invert(lambda t: noise_to_signal(sde, t), ratio, low, high)


def invert(increasing: Callable[[Array], Array], values: Array, low: float, high: float) -> Array:
    """The t in [low, high] with increasing(t) = value, for every value, by bisection to the last bit."""
    lower, upper = np.full_like(values, low), np.full_like(values, high)
    for _ in range(64):
        middle = (lower + upper) / 2
        below = increasing(middle) < values
        lower, upper = np.where(below, middle, lower), np.where(below, upper, middle)
    return (lower + upper) / 2


@dataclass(frozen=True, eq=False)
class Levels:
    """Signal and noise at times of any shape, for grids the (n + 1,) edges of their steps.

    Attributes:
        times, scale, std: as in `ScalarSDE.marginal`.
    """

    sde: ScalarSDE
    times: Array
    scale: Array
    std: Array

    @classmethod
    def at(cls, sde: ScalarSDE, times: Array) -> Levels:
        """The levels at ``times``."""
        return cls(sde, times, *sde.marginal(times))

    @property
    def ratio(self) -> Array:
        """std / scale."""
        return self.std / self.scale

    @property
    def half_log_snr(self) -> Array:
        """log(scale / std), which rises as t falls."""
        return np.log(self.scale / self.std)

    @property
    def widths(self) -> Array:
        """(n,) the steps' lengths in `half_log_snr`, positive."""
        return np.diff(self.half_log_snr)

    def inside(self, share: float) -> Levels:
        """(n,) the levels after a share of each step, in `half_log_snr`."""
        wanted = np.exp(-(self.half_log_snr[:-1] + share * self.widths))
        return Levels.at(self.sde, time_of(self.sde, wanted, self.times[-1], self.times[0]))

    def noise_predictions(self) -> list[tuple[float, float]]:
        """`Row.derive` of e = -std score, at each time."""
        return [(0.0, -std) for std in self.std]

    def data_predictions(self) -> list[tuple[float, float]]:
        """`Row.derive` of E[x(0) | x] = (x + std^2 score) / scale, at each time (Tweedie's formula)."""
        return list(zip(1 / self.scale, self.std**2 / self.scale, strict=True))


def posterior_mean(sde: ScalarSDE, t: float, dt: float) -> Row:
    """E[x(0) | x(t)]: the step to a deviation of 0 of every solver here whose order is 1."""
    return Row(t, derive=Levels.at(sde, np.array([t])).data_predictions()[0], state=0.0, outputs=(1.0,))


def noised(sde: SDE, start: float, stop: float) -> AnyRow:
    """A row that goes forward in time by the SDE's own kernel, without an evaluation."""
    if isinstance(sde, CLDSDE):
        mean, covariance = sde.transition(start, stop)
        return PairRow(start, derive=None, state=mean, noise=cholesky(covariance))
    assert isinstance(sde, ScalarSDE)
    scale, std = sde.transition(start, stop)
    return Row(start, derive=None, state=float(scale), noise=float(std))
