# SPDX-License-Identifier: Apache-2.0
"""Bounds for statistical tests: each follows from the sampling distribution of what is compared, never from a run.

A test that uses one is marked ``statistical`` and draws from the fixture ``run_seed``, so that
``pytest -m statistical --run-seed N`` repeats it with other random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SIGMAS = 5
"""Standard errors that a correct estimate may be off by: a normal one is farther once in 1.7 million draws."""


def standard_error_of_mean(std: float, count: int) -> float:
    """Of the mean of ``count`` independent values with standard deviation ``std``."""
    return std / np.sqrt(count)


def standard_error_of_std(std: float, count: int) -> float:
    """Of the standard deviation of ``count`` independent normal values."""
    return std / np.sqrt(2 * count)


def assert_moments(values: Any, mean: float, std: float, *, bias: float = 0.0) -> None:
    """Independent values from N(mean, std^2) have that mean and standard deviation, within `SIGMAS` standard errors.

    ``bias`` is the method's own error in either, in units of ``std``: derived or measured separately, not by the test.
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    bound = SIGMAS * standard_error_of_mean(std, values.size) + bias * std
    assert abs(values.mean() - mean) <= bound, f"mean {values.mean():.6g}, not {mean:.6g} +- {bound:.2g}"
    bound = SIGMAS * standard_error_of_std(std, values.size) + bias * std
    assert abs(values.std() - std) <= bound, f"standard deviation {values.std():.6g}, not {std:.6g} +- {bound:.2g}"


def mean_distance_bound(covariance: np.ndarray, count: int) -> float:
    """Largest |sample mean - mean| of ``count`` normal vectors (D,) with that covariance (D, D).

    Its root mean square is sqrt(tr C / n). It is a convex Lipschitz function of the draws with constant sqrt(l / n),
    where l is the largest eigenvalue, so that it exceeds its mean by `SIGMAS` of those as rarely as a normal variable.
    """
    largest = np.linalg.eigvalsh(covariance)[-1]
    return float(np.sqrt(np.trace(covariance) / count) + SIGMAS * np.sqrt(largest / count))


def covariance_distance_bound(covariance: np.ndarray, count: int) -> float:
    """Largest Frobenius distance of the sample covariance of ``count`` normal vectors from their covariance (D, D).

    Its root mean square is sqrt((tr C^2 + (tr C)^2) / (n - 1)); no direction's variance has a standard error above
    l sqrt(2 / (n - 1)), where l is the largest eigenvalue.
    """
    largest, degrees = np.linalg.eigvalsh(covariance)[-1], count - 1
    typical = np.sqrt((np.sum(covariance**2) + np.trace(covariance) ** 2) / degrees)
    return float(typical + SIGMAS * largest * np.sqrt(2 / degrees))


def binomial_bounds(probability: float, count: int) -> tuple[float, float]:
    """Smallest and largest share of ``count`` independent trials that succeed with that probability."""
    reach = SIGMAS * np.sqrt(probability * (1 - probability) / count)
    return max(0.0, probability - reach), min(1.0, probability + reach)


def kolmogorov_smirnov_bound(counts: Sequence[int]) -> float:
    """Largest distance between empirical distribution functions (one count: to the exact one), p = 6e-7.

    By the Dvoretzky-Kiefer-Wolfowitz inequality, P(D > d) <= 2 exp(-2 n d^2) with Massart's constant; two samples have
    n = n1 n2 / (n1 + n2), which is asymptotic.
    """
    n = 1 / sum(1 / count for count in counts)
    return float(np.sqrt(np.log(2 / 5.7e-7) / (2 * n)))
