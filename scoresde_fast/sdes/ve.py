# SPDX-License-Identifier: Apache-2.0
"""The variance-exploding SDE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from scoresde_fast.sdes.base import Array, Discretisation, Marginal, ScalarSDE, Time, as_times, table_index, table_times


@dataclass(frozen=True)
class VESDE(ScalarSDE):
    """dx = sigma(t) sqrt(2 ln(sigma_max / sigma_min)) dw with sigma(t) = sigma_min (sigma_max / sigma_min)^t.

    Song et al. 2021, appendix C.  Its discretisation is SMLD with geometric noise levels.

    Raises:
        ValueError: 0 < sigma_min < sigma_max does not hold.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    name: ClassVar[str] = "vesde"
    sampling_eps: ClassVar[float] = 1e-5

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}: a VE SDE needs 0 < sigma_min < sigma_max"
            )

    def sigma(self, t: Time) -> Array:
        """Return the noise level sigma(t)."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** as_times(t)

    def drift(self, t: Time) -> Array:
        return np.zeros_like(self.sigma(t))

    def diffusion(self, t: Time) -> Array:
        return self.sigma(t) * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))

    def marginal(self, t: Time) -> Marginal:
        sigma = self.sigma(t)
        return Marginal(np.ones_like(sigma), sigma)

    def noise_levels(self, n: int) -> Array:
        """Return the ascending noise levels of the ``n``-step process, followed by a 0: index -1 precedes index 0."""
        return np.append(self.sigma(table_times(n, self.T)), 0.0)

    def discretise(self, t: Time, n: int) -> Discretisation:
        index, levels = table_index(t, n, self.T), self.noise_levels(n)
        diffusion = np.sqrt(levels[index] ** 2 - levels[index - 1] ** 2)
        return Discretisation(np.zeros_like(diffusion), diffusion)

    @property
    def prior_std(self) -> float:
        return self.sigma_max
