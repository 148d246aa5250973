# SPDX-License-Identifier: Apache-2.0
"""The base class of SDEs with linear drift and Gaussian transition kernels, in float64.

Times are float64 scalars or arrays; results have the shape of the time.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Time = float | Array

CHECKED_TIMES = 257
"""Number of times at which functions of the time are checked and compared."""


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
    parts: ClassVar[int] = 1
    """Number of parts of a state: 1 (the data) or 2 (position and velocity)."""

    @property
    def T(self) -> float:
        """Time at which sampling starts."""
        return 1.0

    @property
    def sampling_eps(self) -> float:
        """Default time at which sampling stops."""
        return 1e-3

    @property
    def flow_eps(self) -> float:
        """Default time of the data for codes and likelihoods; 1e-5 as in the official code."""
        return 1e-5

    def describe(self) -> dict[str, Any]:
        """Return the name and the numbers that define this SDE, as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"name": self.name, **{name: value for name, value in values.items() if isinstance(value, float | str)}}

    def checked_times(self) -> Array:
        """Return times (n,) from ``sampling_eps`` to T at which to compare functions of the time."""
        return np.linspace(self.sampling_eps, self.T, CHECKED_TIMES)

    def trained_times(self, times: Array) -> Array:
        """Return descending ``times`` (n,), moved to the nearest different times at which networks are trained.

        In continuous time these are ``times`` themselves.

        Raises:
            ValueError: networks are trained at fewer than n times.
        """
        return times

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


def values_sha256(*values: Array) -> str:
    """Return the SHA-256 of numbers, rounded to six digits so that it does not depend on the processor."""
    return hashlib.sha256(
        " ".join(f"{number:.6g}" for array in values for number in np.ravel(array)).encode()
    ).hexdigest()


def as_times(t: Time) -> Array:
    """Return ``t`` as a float64 array."""
    return np.asarray(t, dtype=np.float64)
