# SPDX-License-Identifier: Apache-2.0
"""Base classes of SDEs with linear drift and Gaussian transition kernels, in float64.

`ScalarSDE` has a scalar drift and diffusion:

    dx = f(t) x dt + g(t) dw        x(t) | x(0) ~ N(scale(t) x(0), std(t)^2 I)        0 <= t <= T

`scoresde_fast.sdes.cld` acts on pairs of position and velocity, with 2x2 matrices instead of scalars.

Times are float64 scalars or arrays; results have the shape of the time.
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
    """The kernel x(t) | x(0): mean ``scale`` x(0), standard deviation ``std``."""

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


class ScoreMap(NamedTuple):
    """A linear combination of a state and its score, ``state`` x + ``score`` s; on CLD s is the velocity's score."""

    state: Array
    score: Array


class Observation(NamedTuple):
    """The least-squares estimate of x(0) from a state: sum_k ``weights[..., k]`` x_k(t) = x(0) + ``std`` z.

    x_k are the parts of the state.  The state given x(0) is Gaussian, so the estimate is a sufficient statistic for
    x(0).
    """

    weights: Array
    std: Array


@dataclass(frozen=True)
class SDE(ABC):
    """A forward SDE on 0 <= t <= ``T`` with linear drift."""

    name: ClassVar[str]
    T: ClassVar[float] = 1.0
    sampling_eps: ClassVar[float]
    """Default time at which sampling stops."""
    parts: ClassVar[int] = 1
    """Number of parts of a state: 1 (the data) or 2 (position and velocity)."""

    @property
    @abstractmethod
    def prior_stds(self) -> tuple[float, ...]:
        """Standard deviation of the prior in each part of a state."""

    @abstractmethod
    def noise_to_signal(self, t: Time) -> Array:
        """Return std / scale at t, which increases with t; on CLD that of the position."""

    @abstractmethod
    def denoised(self, t: Time) -> ScoreMap:
        """Return E[x(0) | x(t)] by Tweedie's formula: ``state`` (..., parts) and ``score`` (...).

        Raises:
            ValueError: on CLD, as `CLDSDE.joint_score`.
        """

    @abstractmethod
    def observation(self, t: Time) -> Observation:
        """Return the estimate of x(0) from a state at t: ``weights`` (..., parts) and ``std`` (...)."""

    def prior_log_density(self, x: Array) -> Array:
        """Return the log density (B,) of the prior at states (B, C, ...)."""
        total = np.zeros(len(x))
        parts = np.split(np.asarray(x, dtype=np.float64), self.parts, axis=1)
        for part, std in zip(parts, self.prior_stds, strict=True):
            flat = part.reshape(len(x), -1)
            total -= 0.5 * flat.shape[1] * math.log(2 * math.pi * std**2) + (flat**2).sum(1) / (2 * std**2)
        return total


@dataclass(frozen=True)
class ScalarSDE(SDE):
    """An SDE with scalar drift and diffusion (Song et al. 2021, section 3 and appendix B)."""

    @abstractmethod
    def drift(self, t: Time) -> Array:
        """Return f(t) of the drift f(t) x."""

    @abstractmethod
    def diffusion(self, t: Time) -> Array:
        """Return g(t)."""

    @abstractmethod
    def marginal(self, t: Time) -> Marginal:
        """Return the kernel x(t) | x(0)."""

    @abstractmethod
    def discretise(self, t: Time, n: int) -> Discretisation:
        """Return the step of the published ``n``-step forward process at the last of its times at or before ``t``."""

    def discretise_between(self, s: Time, t: Time) -> Discretisation:
        """Return the forward step from s to t > s, for grids other than the published one."""
        scale, std = self.transition(s, t)
        return Discretisation(scale - 1, std)

    @property
    @abstractmethod
    def prior_std(self) -> float:
        """Standard deviation of the prior N(0, prior_std^2 I), which approximates x(T)."""

    @property
    def prior_stds(self) -> tuple[float, ...]:
        return (self.prior_std,)

    def langevin_alpha(self, t: Time, dt: Time) -> Array:
        """Return the factor alpha of a Langevin corrector's step size: 1 - beta(t) dt on VP and sub-VP, else 1."""
        return np.ones_like(as_times(t))

    def transition(self, s: Time, t: Time) -> Marginal:
        """Return the exact kernel x(t) | x(s) for s <= t: mean scale x(s), standard deviation std."""
        scale_s, std_s = self.marginal(s)
        scale_t, std_t = self.marginal(t)
        scale = scale_t / scale_s
        return Marginal(scale, np.sqrt(np.maximum(std_t**2 - (scale * std_s) ** 2, 0.0)))

    def reverse(self, t: Time, *, probability_flow: bool = False) -> Reverse:
        """Return the reverse-time SDE, or with ``probability_flow`` the ODE (Song et al. 2021, equations 6 and 13)."""
        g = self.diffusion(t)
        return Reverse(self.drift(t), -(0.5 if probability_flow else 1.0) * g**2, g * (not probability_flow))

    def noise_to_signal(self, t: Time) -> Array:
        scale, std = self.marginal(t)
        return std / scale

    def denoised(self, t: Time) -> ScoreMap:
        scale, std = self.marginal(t)
        return ScoreMap(1 / scale[..., None], std**2 / scale)

    def observation(self, t: Time) -> Observation:
        scale, std = self.marginal(t)
        return Observation(1 / scale[..., None], std / scale)


def table_index(t: Time, n: int, T: float) -> npt.NDArray[np.int64]:
    """Return floor(t (n - 1) / T), the index of a time in the tables of an ``n``-step process."""
    return np.floor(as_times(t) * (n - 1) / T).astype(np.int64)


def table_times(n: int, T: float) -> Array:
    """Return the ``n`` times of the entries of these tables, from 0 to T; T alone for ``n`` = 1."""
    return np.linspace(T, 0, n, dtype=np.float64)[::-1]


def as_times(t: Time) -> Array:
    """Return ``t`` as a float64 array."""
    return np.asarray(t, dtype=np.float64)
