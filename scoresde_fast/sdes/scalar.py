# SPDX-License-Identifier: Apache-2.0
"""SDEs with a scalar drift and diffusion (Song et al. 2021): variance exploding (VE), variance preserving (VP), sub-VP.

dx = f(t) x dt + g(t) dw        x(t) | x(0) ~ N(scale(t) x(0), std(t)^2 I)        0 <= t <= T
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from scoresde_fast.sdes.base import SDE, Array, Observation, ScoreMap, Time, as_times, values_sha256


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


@dataclass(frozen=True)
class ScalarSDE(SDE):
    """An SDE with scalar drift and diffusion (Song et al. 2021, section 3 and appendix B).

    A subclass, a frozen dataclass, needs only `marginal`: the rest follows, drift and diffusion by finite differences.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not hasattr(cls, "name"):
            cls.name = cls.__name__

    @property
    def flow_eps(self) -> float:
        return self.sampling_eps

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "marginals_sha256": values_sha256(*self.marginal(self.checked_times()))}

    @abstractmethod
    def marginal(self, t: Time) -> Marginal:
        """Return the kernel x(t) | x(0), for times (...) from 0 to T."""

    def drift(self, t: Time) -> Array:
        """Return f(t) of the drift f(t) x: the slope of log scale."""
        return self._log_slopes(t).scale

    def diffusion(self, t: Time) -> Array:
        """Return g(t): g^2 is twice the variance times the slope of log(std / scale)."""
        slopes = self._log_slopes(t)
        return self.marginal(t).std * np.sqrt(2 * (slopes.std - slopes.scale))

    def _log_slopes(self, t: Time) -> Marginal:
        """Return the slopes of log scale and log std at t > 0, by differences of fourth order from times up to t."""
        t = as_times(t)
        width = 1e-5 * t
        values = [np.log(value) for value in self.marginal(t[..., None] - width[..., None] * np.arange(5))]
        scale, std = (value @ np.array([25.0, -48.0, 36.0, -16.0, 3.0]) / (12 * width) for value in values)
        return Marginal(scale, std)

    def discretise_between(self, s: Time, t: Time) -> Discretisation:
        """Return the forward step from s to t > s, for grids other than the published one."""
        scale, std = self.transition(s, t)
        return Discretisation(scale - 1, std)

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior N(0, prior_std^2 I), which approximates x(T)."""
        return float(self.marginal(self.T).std)

    @property
    def prior_stds(self) -> tuple[float, ...]:
        return (self.prior_std,)

    def langevin_alpha(self, t: Time, dt: Time) -> Array:
        """Return the factor alpha of a Langevin corrector's step size: 1 - beta(t) dt with betas, else 1."""
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
        if probability_flow:
            return Reverse(self.drift(t), -0.5 * g**2, np.zeros_like(g))
        return Reverse(self.drift(t), -(g**2), g)

    def noise_to_signal(self, t: Time) -> Array:
        scale, std = self.marginal(t)
        return std / scale

    def denoised(self, t: Time) -> ScoreMap:
        scale, std = self.marginal(t)
        return ScoreMap(1 / scale[..., None], std**2 / scale)

    def observation(self, t: Time) -> Observation:
        scale, std = self.marginal(t)
        return Observation(1 / scale[..., None], std / scale)


@dataclass(frozen=True)
class DiscretisedSDE(ScalarSDE):
    """An SDE of Song et al. (2021), which has a published process of n steps."""

    @property
    def flow_eps(self) -> float:
        return 1e-5

    @abstractmethod
    def discretise(self, t: Time, n: int) -> Discretisation:
        """Return the step of the published ``n``-step forward process at the last of its times at or before ``t``."""


@dataclass(frozen=True)
class VESDE(DiscretisedSDE):
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
        """Return the ascending noise levels of the ``n``-step process, then 0: index -1 precedes the first level."""
        return np.append(self.sigma(table_times(n, self.T)), 0.0)

    def discretise(self, t: Time, n: int) -> Discretisation:
        index, levels = table_index(t, n, self.T), self.noise_levels(n)
        diffusion = np.sqrt(levels[index] ** 2 - levels[index - 1] ** 2)
        return Discretisation(np.zeros_like(diffusion), diffusion)

    @property
    def prior_std(self) -> float:
        return self.sigma_max


@dataclass(frozen=True)
class LinearBetaSDE(DiscretisedSDE):
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


def table_index(t: Time, n: int, T: float) -> npt.NDArray[np.int64]:
    """Return floor(t (n - 1) / T), the index of a time in the tables of an ``n``-step process."""
    return np.floor(as_times(t) * (n - 1) / T).astype(np.int64)


def table_times(n: int, T: float) -> Array:
    """Return the times (n,) of the tables of an ``n``-step process, from 0 to T; T alone for ``n`` = 1."""
    return np.linspace(T, 0, n, dtype=np.float64)[::-1]
