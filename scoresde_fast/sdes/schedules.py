# SPDX-License-Identifier: Apache-2.0
"""Noise schedules of other models: tables of betas, EDM, rectified flow, and any pair of functions.

Each is the SDE whose marginals are x(t) = scale(t) x(0) + std(t) z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from scoresde_fast.errors import shown
from scoresde_fast.sdes.base import Array, Time, as_times
from scoresde_fast.sdes.scalar import VESDE, Marginal, ScalarSDE

MAX_NOISE_TO_SIGNAL = 1e4
"""Largest sigma / alpha at T; beyond it, the signal at T is too small for the solvers."""
MAX_LAST_SCALE = 0.2
"""Largest scale of the data after the last step of `Betas`; the prior N(0, 1) ignores the data."""
ROUNDING = 1e-6
"""Tolerance, in steps, for rounding errors in the time of an index."""


@dataclass(frozen=True)
class Schedule(ScalarSDE):
    """The SDE with x(t) = alpha(t) x(0) + sigma(t) z, for any functions of the time.

    Args:
        alpha, sigma: functions that map an array of times to positive float64 values of the same shape, or to a number;
            sigma / alpha increases with the time.
        T: time at which sampling starts; alpha must not vanish there.
        sampling_eps: time at which sampling stops.

    Raises:
        ValueError: 0 < sampling_eps < T does not hold, or alpha or sigma breaks a condition above in [sampling_eps, T].
    """

    alpha: Callable[[Array], Array]
    sigma: Callable[[Array], Array]
    T: float = 1.0
    sampling_eps: float = 1e-3
    name: ClassVar[str] = "schedule"

    def __post_init__(self) -> None:
        if not 0 < self.sampling_eps < self.T < math.inf:
            raise ValueError(f"sampling_eps={self.sampling_eps}, T={self.T}: a schedule needs 0 < sampling_eps < T")
        times = self.checked_times()
        for name, function in (("alpha", self.alpha), ("sigma", self.sigma)):
            try:
                value = function(times)
            except TypeError as error:
                raise TypeError(f"{name} fails for a NumPy array of times: {error}; use functions of NumPy") from error
            if np.shape(value) != () and not _is_float64(value, times.shape):
                raise ValueError(
                    f"{name} returns {type(value).__name__} of dtype {getattr(value, 'dtype', None)} and shape "
                    f"{np.shape(value)} for times {times.shape}; it must return a float64 array of the same shape"
                )
        with np.errstate(all="ignore"):
            marginal = self.marginal(times)
            valid = np.logical_and.reduce([(value > 0) & np.isfinite(value) for value in marginal])
            valid[1:] &= np.diff(marginal.std / marginal.scale) > 0
        if not valid.all():
            first = int(np.argmin(valid))
            raise ValueError(
                f"at t={times[first]:g} alpha is {marginal.scale[first]:g} and sigma is {marginal.std[first]:g}; both "
                "must be positive, and sigma / alpha must increase with the time"
            )
        if (ratio := marginal.std[-1] / marginal.scale[-1]) > MAX_NOISE_TO_SIGNAL:
            raise ValueError(
                f"sigma / alpha is {ratio:.3g} at T={self.T:g}; it must be at most {MAX_NOISE_TO_SIGNAL:g}: choose a "
                "smaller T"
            )

    def marginal(self, t: Time) -> Marginal:
        t = as_times(t)
        zeros = np.zeros_like(t)  # give a constant the shape of t
        return Marginal(self.alpha(t) + zeros, self.sigma(t) + zeros)


def _is_float64(value: object, shape: tuple[int, ...]) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float64 and value.shape == shape


@dataclass(frozen=True)
class EDM(ScalarSDE):
    """dx = sqrt(2 t) dw, whose time is the noise level: x(t) = x(0) + t z (Karras et al. 2022).

    The grids "karras", "logsnr" and "kl_optimal" suit it; uniform steps in t are too long at small times.

    Raises:
        ValueError: 0 < sigma_min < sigma_max does not hold.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    name: ClassVar[str] = "edm"

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}: EDM needs 0 < sigma_min < sigma_max"
            )

    @property
    def T(self) -> float:
        return self.sigma_max

    @property
    def sampling_eps(self) -> float:
        return self.sigma_min

    def drift(self, t: Time) -> Array:
        return np.zeros_like(as_times(t))

    def diffusion(self, t: Time) -> Array:
        return np.sqrt(2 * as_times(t))

    def marginal(self, t: Time) -> Marginal:
        t = as_times(t)
        return Marginal(np.ones_like(t), t)


@dataclass(frozen=True)
class RectifiedFlow(ScalarSDE):
    """The straight path x(t) = (1 - t) x(0) + t z (Liu et al. 2022; Lipman et al. 2022, with time reversed).

    Sampling starts at T < 1, because the SDE is singular at 1.  The prior N(0, T^2) has the variance of the noise
    at T, and ignores the signal (1 - T) x(0).

    Raises:
        ValueError: 0 < sampling_eps < T <= 0.9999 does not hold.
    """

    T: float = 0.999
    sampling_eps: float = 1e-3
    name: ClassVar[str] = "rectified_flow"

    def __post_init__(self) -> None:
        if not 0 < self.sampling_eps < self.T <= 1 - 1 / MAX_NOISE_TO_SIGNAL:
            raise ValueError(
                f"sampling_eps={self.sampling_eps}, T={self.T}: rectified flow needs 0 < sampling_eps < T <= 0.9999"
            )

    def drift(self, t: Time) -> Array:
        return -1 / (1 - as_times(t))

    def diffusion(self, t: Time) -> Array:
        t = as_times(t)
        return np.sqrt(2 * t / (1 - t))

    def marginal(self, t: Time) -> Marginal:
        t = as_times(t)
        return Marginal(1 - t, t)


@dataclass(frozen=True, repr=False)
class Betas(ScalarSDE):
    """The chain x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) z of DDPM (Ho et al. 2020), in continuous time.

    Index i of the ``n`` betas is at the time (i + 1) / n; time 0 is the data.  Between these times beta(t) is constant,
    so that each step of the chain is exact.

    Args:
        betas: (n,) numbers between 0 and 1, both excluded: not the alphas 1 - beta, nor their products.

    Raises:
        ValueError: ``betas`` is not a list of at least two such numbers, or the last state has over a fifth of x(0).
    """

    betas: Sequence[float] | npt.NDArray[np.floating]
    name: ClassVar[str] = "betas"

    def __post_init__(self) -> None:
        if isinstance(self.betas, str):
            raise ValueError(f"betas is {shown(self.betas)}; pass numbers, or use Betas.linear(1000) or its like")
        betas = np.asarray(self.betas, dtype=np.float64)
        if betas.ndim != 1 or len(betas) < 2:
            raise ValueError(f"betas has shape {betas.shape}; pass a list of at least two numbers")
        if not ((valid := (betas > 0) & (betas < 1)).all()):
            index = int(np.argmin(valid))
            raise ValueError(
                f"beta number {index} is {betas[index]:g}; each beta must be between 0 and 1, both excluded"
            )
        if betas[0] > betas[-1]:
            raise ValueError(
                f"the betas fall from {betas[0]:g} to {betas[-1]:g}, but the first belongs to the least noise: pass "
                "betas, not alphas, in the order of the noise; products of alphas go to Betas.from_alphas_cumprod"
            )
        object.__setattr__(self, "betas", tuple(betas.tolist()))  # a tuple can be compared and hashed
        if (scale := math.exp(self._log_scales[-1])) > MAX_LAST_SCALE:
            raise ValueError(
                f"the last state contains {scale:.3g} times the data; it must be at most {MAX_LAST_SCALE:g}, because "
                "sampling starts from noise alone: pass more or larger betas"
            )

    def __repr__(self) -> str:
        return f"Betas({len(self)} from {self.betas[0]:g} to {self.betas[-1]:g})"

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Sequence[float] | npt.NDArray[np.floating]) -> Betas:
        """Return the betas for which ``alphas_cumprod`` (n,) are the squared scales after each step."""
        squared_scale = np.append(1.0, np.asarray(alphas_cumprod, dtype=np.float64))
        return cls(1 - squared_scale[1:] / squared_scale[:-1])

    @classmethod
    def linear(cls, n: int = 1000, first: float = 1e-4, last: float = 0.02) -> Betas:
        """Return evenly spaced betas (Ho et al. 2020)."""
        return cls(np.linspace(first, last, n))

    @classmethod
    def scaled_linear(cls, n: int = 1000, first: float = 0.00085, last: float = 0.012) -> Betas:
        """Return betas with evenly spaced square roots; the defaults are those of Stable Diffusion."""
        return cls(np.linspace(math.sqrt(first), math.sqrt(last), n) ** 2)

    @classmethod
    def cosine(cls, n: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> Betas:
        """Return the betas for which the squared scale is a squared cosine (Nichol & Dhariwal 2021, equation 17)."""
        squared_scale = np.cos((np.linspace(0, 1, n + 1) + s) / (1 + s) * math.pi / 2) ** 2
        return cls(np.minimum(1 - squared_scale[1:] / squared_scale[:-1], max_beta))

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "n": len(self), "first": self.betas[0], "last": self.betas[-1]}

    def __len__(self) -> int:
        return len(self.betas)

    @property
    def sampling_eps(self) -> float:
        return 1 / len(self)

    @cached_property
    def _log_scales(self) -> Array:
        """(n + 1,) log of the scale at the times 0, 1 / n, ..., 1."""
        return np.append(0.0, np.cumsum(np.log1p(-np.asarray(self.betas))) / 2)

    def log_scale(self, t: Time) -> Array:
        """Return the log of the marginal's scale."""
        return np.interp(len(self) * as_times(t), np.arange(len(self) + 1), self._log_scales)

    def drift(self, t: Time) -> Array:
        """Return f(t); where a step ends and the next begins, the value in the ending step."""
        step = np.ceil(len(self) * as_times(t) - ROUNDING).astype(np.int64) - 1
        return len(self) * np.diff(self._log_scales)[np.clip(step, 0, len(self) - 1)]

    def diffusion(self, t: Time) -> Array:
        return np.sqrt(-2 * self.drift(t))

    def marginal(self, t: Time) -> Marginal:
        log_scale = self.log_scale(t)
        return Marginal(np.exp(log_scale), np.sqrt(-np.expm1(2 * log_scale)))

    def index(self, t: Time) -> npt.NDArray[np.int64]:
        """Return the index of the beta whose time is nearest to ``t``."""
        return np.clip(np.round(len(self) * as_times(t)) - 1, 0, len(self) - 1).astype(np.int64)

    def trained_times(self, times: Array) -> Array:
        return (distinct_indices(self.index(times), len(self), "betas") + 1) / len(self)

    def langevin_alpha(self, t: Time, dt: Time) -> Array:
        """Return 1 - beta, the squared scale, of the step of length ``dt`` that ends at ``t``."""
        start = np.maximum(as_times(t) - dt, 0.0)
        return np.exp(2 * (self.log_scale(t) - self.log_scale(start)))

    @property
    def prior_std(self) -> float:
        return 1.0


@dataclass(frozen=True)
class SMLD(VESDE):
    """A VE SDE whose networks are trained at ``n`` noise levels, sigma(t) at t = i / (n - 1) (Song & Ermon 2019)."""

    n: int = 1000

    def trained_times(self, times: Array) -> Array:
        index = distinct_indices(np.round(as_times(times) * (self.n - 1)).astype(np.int64), self.n, "noise levels")
        return np.maximum(index / (self.n - 1), self.sampling_eps)


def distinct_indices(index: npt.NDArray[np.int64], count: int, noun: str) -> npt.NDArray[np.int64]:
    """Return descending indices below ``count``, moved so that no two are equal.

    Raises:
        ValueError: there are more than ``count``; ``noun`` says of what.
    """
    if len(index) > count:
        raise ValueError(
            f"there are only {count} {noun}, which is too few for {len(index)} different times: take at most "
            f"{count - 1} steps"
        )
    places = np.arange(len(index))
    # The indices must descend strictly: from the end, raise those too small; from the start, lower those too large.
    index = np.maximum.accumulate((index + places)[::-1])[::-1] - places
    return np.minimum.accumulate(np.minimum(index + places, count - 1)) - places
