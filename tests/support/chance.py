# SPDX-License-Identifier: Apache-2.0
"""Bounds for statistical tests, derived from sampling distributions.

Tests that use them are marked ``statistical`` and use the fixture ``run_seed``: ``pytest -m statistical --run-seed N``
repeats them with other random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SIGMAS = 5
"""Allowed error in standard errors; a normal estimate exceeds it with probability 1 in 1.7 million."""


def standard_error_of_mean(std: float, count: int) -> float:
    """Return the standard error of the mean of ``count`` independent values with standard deviation ``std``."""
    return std / np.sqrt(count)


def standard_error_of_std(std: float, count: int) -> float:
    """Return the standard error of the standard deviation of ``count`` independent normal values."""
    return std / np.sqrt(2 * count)


def assert_moments(values: Any, mean: float, std: float, *, bias: float = 0.0) -> None:
    """Assert that independent ``values`` have the mean and standard deviation of N(mean, std^2), within `SIGMAS`.

    ``bias`` is the allowed systematic error of both, in units of ``std``; it must not be fitted to the test.
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    bound = SIGMAS * standard_error_of_mean(std, values.size) + bias * std
    assert abs(values.mean() - mean) <= bound, f"mean {values.mean():.6g}, not {mean:.6g} +- {bound:.2g}"
    bound = SIGMAS * standard_error_of_std(std, values.size) + bias * std
    assert abs(values.std() - std) <= bound, f"standard deviation {values.std():.6g}, not {std:.6g} +- {bound:.2g}"


def mean_distance_bound(covariance: np.ndarray, count: int) -> float:
    """Return a bound of |sample mean - mean| for ``count`` normal vectors (D,) with ``covariance`` C (D, D).

    Its RMS is sqrt(tr C / n).  It is a Lipschitz function of the draws with constant sqrt(l / n), l the largest
    eigenvalue of C, so by Gaussian concentration it exceeds its mean by `SIGMAS` sqrt(l / n) as rarely as a normal
    variable.
    """
    largest = np.linalg.eigvalsh(covariance)[-1]
    return float(np.sqrt(np.trace(covariance) / count) + SIGMAS * np.sqrt(largest / count))


def covariance_distance_bound(covariance: np.ndarray, count: int) -> float:
    """Return a bound of the Frobenius distance between the sample covariance of ``count`` normal vectors and C (D, D).

    Its RMS is sqrt((tr C^2 + (tr C)^2) / (n - 1)).  The variance along any direction has a standard error of at most
    l sqrt(2 / (n - 1)), where l is the largest eigenvalue of C.
    """
    largest, degrees = np.linalg.eigvalsh(covariance)[-1], count - 1
    typical = np.sqrt((np.sum(covariance**2) + np.trace(covariance) ** 2) / degrees)
    return float(typical + SIGMAS * largest * np.sqrt(2 / degrees))


def binomial_bounds(probability: float, count: int) -> tuple[float, float]:
    """Return bounds of the fraction of successes in ``count`` independent trials."""
    margin = SIGMAS * np.sqrt(probability * (1 - probability) / count)
    return max(0.0, probability - margin), min(1.0, probability + margin)


def kolmogorov_smirnov_bound(counts: Sequence[int]) -> float:
    """Return a bound at p = 6e-7 of the distance D between two empirical CDFs; with one count, to the exact CDF.

    By the Dvoretzky-Kiefer-Wolfowitz inequality with Massart's constant, P(D > d) <= 2 exp(-2 n d^2).  For two samples
    n = n1 n2 / (n1 + n2), which holds asymptotically.
    """
    n = 1 / sum(1 / count for count in counts)
    return float(np.sqrt(np.log(2 / 5.7e-7) / (2 * n)))
