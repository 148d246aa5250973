# SPDX-License-Identifier: Apache-2.0
"""What every SDE here is: a linear drift, a scalar diffusion, and the Gaussian kernels that follow, in float64.

    dx = f(t) x dt + g(t) dw        x(t) | x(0) ~ N(scale(t) x(0), std(t)^2 I)        0 <= t <= T

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
    """A forward SDE on 0 <= t <= ``T`` with linear drift (Song et al. 2021, section 3 and appendix B)."""

    name: ClassVar[str]
    T: ClassVar[float] = 1.0
    sampling_eps: ClassVar[float]
    """The time at which sampling stops; training stops at 1e-5 on every SDE."""

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

    def reverse(self, t: Time, *, flow: bool = False) -> Reverse:
        """The reverse-time SDE, or with ``flow`` the probability-flow ODE (Song et al. 2021, equations 6 and 13)."""
        g = self.diffusion(t)
        return Reverse(self.drift(t), -(0.5 if flow else 1.0) * g**2, g * (not flow))

    def reverse_discretise(self, t: Time, n: int, *, flow: bool = False) -> Reverse:
        """The reverse of `discretise`: a step back is x - drift_x x - drift_score score + diffusion z."""
        f, g = self.discretise(t, n)
        return Reverse(f, -(0.5 if flow else 1.0) * g**2, g * (not flow))

    def prior_log_density(self, x: Array) -> Array:
        """log density of the prior at (B, ...) samples, summed over each sample -> (B,)."""
        flat = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
        variance = self.prior_std**2
        return -0.5 * flat.shape[1] * math.log(2 * math.pi * variance) - (flat**2).sum(1) / (2 * variance)


def table_index(t: Time, n: int, T: float) -> npt.NDArray[np.int64]:
    """floor(t (n - 1) / T): the index of a time in the tables of the ``n``-step processes."""
    return np.floor(as_times(t) * (n - 1) / T).astype(np.int64)


def table_times(n: int, T: float) -> Array:
    """The times of those tables' entries: ``n`` from 0 to T, or T alone."""
    return np.linspace(T, 0, n)[::-1]


def as_times(t: Time) -> Array:
    """``t`` as a float64 array."""
    return np.asarray(t, dtype=np.float64)
