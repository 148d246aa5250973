# SPDX-License-Identifier: Apache-2.0
"""The variance-preserving SDE and its sub-VP variant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from scoresde_fast.sdes.base import Array, Discretisation, Marginal, ScalarSDE, Time, as_times, table_index, table_times


@dataclass(frozen=True)
class LinearBetaSDE(ScalarSDE):
    """Drift -beta(t) x / 2 with beta(t) = beta_min + t (beta_max - beta_min): what VP and sub-VP share.

    Raises:
        ValueError: not 0 < beta_min <= beta_max.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    sampling_eps: ClassVar[float] = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"beta_min={self.beta_min}, beta_max={self.beta_max}: a VP SDE needs 0 < beta_min <= beta_max"
            )

    def beta(self, t: Time) -> Array:
        """beta(t)."""
        return self.beta_min + as_times(t) * (self.beta_max - self.beta_min)

    def log_scale(self, t: Time) -> Array:
        """log of the factor of x(0) in x(t): minus half the integral of beta."""
        t = as_times(t)
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def discrete_beta(self, t: Time, n: int) -> Array:
        """beta_i of the ``n``-step process (DDPM) at the grid point at or below t."""
        return self._discrete_betas(n)[table_index(t, n, self.T)]

    def _discrete_betas(self, n: int) -> Array:
        return self.beta(table_times(n, self.T)) / n

    def drift(self, t: Time) -> Array:
        return -0.5 * self.beta(t)

    def langevin_alpha(self, t: Time, dt: Time) -> Array:
        return 1 - self.beta(t) * dt

    @property
    def prior_std(self) -> float:
        return 1.0


@dataclass(frozen=True)
class VPSDE(LinearBetaSDE):
    """dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw (Song et al. 2021, equation 11); its discretisation is DDPM."""

    name: ClassVar[str] = "vpsde"

    def diffusion(self, t: Time) -> Array:
        return np.sqrt(self.beta(t))

    def marginal(self, t: Time) -> Marginal:
        log_scale = self.log_scale(t)
        return Marginal(np.exp(log_scale), np.sqrt(-np.expm1(2 * log_scale)))

    def discretise(self, t: Time, n: int) -> Discretisation:
        beta = self.discrete_beta(t, n)
        return Discretisation(np.sqrt(1 - beta) - 1, np.sqrt(beta))

    def discretise_between(self, s: Time, t: Time) -> Discretisation:
        scale, std = self.transition(s, t)
        return Discretisation(scale - 1, std)

    def discrete_std(self, label: Time, n: int) -> Array:
        """Deviation of the ``n``-step process at the (truncated) index ``label``."""
        kept = np.cumprod(1 - self._discrete_betas(n))
        return np.sqrt(1 - kept)[np.asarray(label).astype(np.int64)]


@dataclass(frozen=True)
class SubVPSDE(LinearBetaSDE):
    """dx = -beta(t) x / 2 dt + sqrt(beta(t) (1 - exp(-2 B(t)))) dw, B the integral of beta (equation 12).

    The deviation of x(t) given x(0) is 1 - exp(-B(t)), the square of VP's.
    """

    name: ClassVar[str] = "subvpsde"

    def diffusion(self, t: Time) -> Array:
        return np.sqrt(self.beta(t) * -np.expm1(4 * self.log_scale(t)))

    def marginal(self, t: Time) -> Marginal:
        log_scale = self.log_scale(t)
        return Marginal(np.exp(log_scale), -np.expm1(2 * log_scale))

    def discretise(self, t: Time, n: int) -> Discretisation:
        return Discretisation(self.drift(t) / n, self.diffusion(t) / math.sqrt(n))

    def discretise_between(self, s: Time, t: Time) -> Discretisation:
        dt = np.asarray(t) - np.asarray(s)
        return Discretisation(self.drift(t) * dt, self.diffusion(t) * np.sqrt(dt))
