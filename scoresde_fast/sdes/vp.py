# SPDX-License-Identifier: Apache-2.0
"""The variance-preserving (VP) and sub-VP SDEs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from scoresde_fast.sdes.base import Array, Discretisation, Marginal, ScalarSDE, Time, as_times, table_index, table_times


@dataclass(frozen=True)
class LinearBetaSDE(ScalarSDE):
    """Base class of VP and sub-VP: drift -beta(t) x / 2 with beta(t) = beta_min + t (beta_max - beta_min).

    Raises:
        ValueError: 0 < beta_min <= beta_max does not hold.
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
        """Return beta(t)."""
        return self.beta_min + as_times(t) * (self.beta_max - self.beta_min)

    def log_scale(self, t: Time) -> Array:
        """Return the log of the marginal's scale: minus half the integral of beta."""
        t = as_times(t)
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def drift(self, t: Time) -> Array:
        return -0.5 * self.beta(t)

    def langevin_alpha(self, t: Time, dt: Time) -> Array:
        return 1 - self.beta(t) * dt

    @property
    def prior_std(self) -> float:
        return 1.0


@dataclass(frozen=True)
class VPSDE(LinearBetaSDE):
    """dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw (Song et al. 2021, equation 11); its discretisation is DDPM's."""

    name: ClassVar[str] = "vpsde"

    def diffusion(self, t: Time) -> Array:
        return np.sqrt(self.beta(t))

    def marginal(self, t: Time) -> Marginal:
        log_scale = self.log_scale(t)
        return Marginal(np.exp(log_scale), np.sqrt(-np.expm1(2 * log_scale)))

    def discretise(self, t: Time, n: int) -> Discretisation:
        beta = self.discrete_betas(n)[table_index(t, n, self.T)]
        return Discretisation(np.sqrt(1 - beta) - 1, np.sqrt(beta))

    def discrete_betas(self, n: int) -> Array:
        """Return beta_i (n,) of the ``n``-step process (DDPM)."""
        return self.beta(table_times(n, self.T)) / n

    def discrete_std(self, label: Time, n: int) -> Array:
        """Return the standard deviation of the ``n``-step process at the index ``label``, truncated to an integer."""
        alpha_bar = np.cumprod(1 - self.discrete_betas(n))
        return np.sqrt(1 - alpha_bar)[np.asarray(label).astype(np.int64)]


@dataclass(frozen=True)
class SubVPSDE(LinearBetaSDE):
    """dx = -beta(t) x / 2 dt + sqrt(beta(t) (1 - exp(-2 B(t)))) dw (Song et al. 2021, equation 12).

    B is the integral of beta.  The standard deviation of x(t) given x(0) is 1 - exp(-B(t)), the square of VP's.
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
