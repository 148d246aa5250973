# SPDX-License-Identifier: Apache-2.0
"""What the SDEs here are: a linear drift, and the Gaussian kernels that follow, in float64.

On images, with a scalar drift and a scalar diffusion (`ScalarSDE`):

    dx = f(t) x dt + g(t) dw        x(t) | x(0) ~ N(scale(t) x(0), std(t)^2 I)        0 <= t <= T

or on pairs of position and velocity, where these are 2x2 matrices (`scoresde_fast.sdes.cld`).

All times and results are float64 numbers or NumPy arrays of one shape; nothing here knows tensors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Time = float | Array


class Marginal(NamedTuple):
    """The kernel x(t) | x(0): mean ``scale`` x(0), deviation ``std``."""

    scale: Array
    std: Array


class Discretisation(NamedTuple):
    """One step of the forward process: x + ``drift`` x + ``diffusion`` z."""

    drift: Array
    diffusion: Array


class Reverse(NamedTuple):
    """A reverse-time process: drift ``drift_x`` x + ``drift_score`` score(x, t) and ``diffusion``."""

    drift_x: Array
    drift_score: Array
    diffusion: Array


@dataclass(frozen=True)
class SDE(ABC):
    """A forward SDE on 0 <= t <= ``T`` with linear drift."""

    name: ClassVar[str]
    T: ClassVar[float] = 1.0
    sampling_eps: ClassVar[float]
    """The time at which sampling stops; training stops at 1e-5 unless its configuration says otherwise."""
    parts: ClassVar[int] = 1
    """How many images a state holds: the data alone, or position and velocity."""

    @property
    @abstractmethod
    def prior_stds(self) -> tuple[float, ...]:
        """Deviation of the prior in each of the ``parts`` of a state."""

    def prior_log_density(self, x: Array) -> Array:
        """log density of the prior at (B, C, ...) states, summed over each -> (B,)."""
        total = np.zeros(len(x))
        for part, std in zip(
            np.split(np.asarray(x, dtype=np.float64), self.parts, axis=1), self.prior_stds, strict=True
        ):
            flat = part.reshape(len(x), -1)
            total -= 0.5 * flat.shape[1] * math.log(2 * math.pi * std**2) + (flat**2).sum(1) / (2 * std**2)
        return total


@dataclass(frozen=True)
class ScalarSDE(SDE):
    """An SDE whose drift and diffusion are numbers (Song et al. 2021, section 3 and appendix B)."""

    @abstractmethod
    def drift(self, t: Time) -> Array:
        """f(t) of the drift f(t) x."""

    @abstractmethod
    def diffusion(self, t: Time) -> Array:
        """g(t)."""

    @abstractmethod
    def marginal(self, t: Time) -> Marginal:
        """Scale and deviation of x(t) given x(0)."""

    @abstractmethod
    def discretise(self, t: Time, n: int) -> Discretisation:
        """The forward step of the ``n``-step process at the grid point at or below ``t``, as published."""

    @property
    @abstractmethod
    def prior_std(self) -> float:
        """Deviation of the prior N(0, prior_std^2 I) that stands for x(T)."""

    @property
    def prior_stds(self) -> tuple[float, ...]:
        return (self.prior_std,)

    @abstractmethod
    def discretise_between(self, s: Time, t: Time) -> Discretisation:
        """The forward step from s to t > s, for grids other than the published one."""

    def langevin_alpha(self, t: Time, dt: Time) -> Array:
        """The factor alpha of the Langevin corrector's step size, 1 - beta(t) dt where there is a beta: else 1."""
        return np.ones_like(as_times(t))

    def transition(self, s: Time, t: Time) -> Marginal:
        """The exact kernel x(t) | x(s) for s <= t: mean scale x(s), deviation std."""
        scale_s, std_s = self.marginal(s)
        scale_t, std_t = self.marginal(t)
        scale = scale_t / scale_s
        return Marginal(scale, np.sqrt(np.maximum(std_t**2 - (scale * std_s) ** 2, 0.0)))

    def reverse(self, t: Time, *, probability_flow: bool = False) -> Reverse:
        """The reverse-time SDE or the probability-flow ODE (Song et al. 2021, equations 6 and 13)."""
        g = self.diffusion(t)
        return Reverse(self.drift(t), -(0.5 if probability_flow else 1.0) * g**2, g * (not probability_flow))

    def reverse_discretise(self, t: Time, n: int, *, probability_flow: bool = False) -> Reverse:
        """The reverse of `discretise`: a step back is x - drift_x x - drift_score score + diffusion z."""
        f, g = self.discretise(t, n)
        return Reverse(f, -(0.5 if probability_flow else 1.0) * g**2, g * (not probability_flow))


def table_index(t: Time, n: int, T: float) -> npt.NDArray[np.int64]:
    """floor(t (n - 1) / T): the index of a time in the tables of the ``n``-step processes."""
    return np.floor(as_times(t) * (n - 1) / T).astype(np.int64)


def table_times(n: int, T: float) -> Array:
    """The times of those tables' entries: ``n`` from 0 to T, or T alone."""
    return np.linspace(T, 0, n, dtype=np.float64)[::-1]


def as_times(t: Time) -> Array:
    """``t`` as a float64 array."""
    return np.asarray(t, dtype=np.float64)
