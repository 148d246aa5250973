# SPDX-License-Identifier: Apache-2.0
"""Closed forms for 2x2 matrices (..., 2, 2): exponential, determinant, inverse and Cholesky factor."""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes.base import Array


def exponential(generator: Array, time: Array) -> Array:
    """Return exp(A time) (..., 2, 2) for a 2x2 ``generator`` A with real, equal or complex eigenvalues.

    With a = trace / 2 and w^2 = a^2 - det it is exp(a time) [cosh(w time) I + sinh(w time) / w (A - a I)].
    """
    half_trace = np.trace(generator) / 2
    square = half_trace**2 - determinant(generator)
    # For equal eigenvalues rounding leaves a tiny w, with an effect of second order.
    omega = np.sqrt(abs(square))
    angle = omega * time
    if square > 0:
        # For strong damping exp(a time) underflows, cosh(w time) overflows and a + w cancels: compute none of them.
        larger = half_trace + np.copysign(omega, half_trace)  # eigenvalue in magnitude; the other is det / larger
        rightmost = determinant(generator) / larger if half_trace < 0 else larger
        slow = np.exp(rightmost * time)
        even, odd = slow * (1 + np.exp(-2 * angle)) / 2, -slow * np.expm1(-2 * angle) / 2
    else:
        decay = np.exp(half_trace * time)
        even, odd = decay * np.cos(angle), decay * np.sin(angle)
    small = np.abs(angle) < 1e-4
    series = np.exp(half_trace * time) * time * (1 + np.sign(square) * angle**2 / 6)
    odd = np.where(small, series, odd / np.where(small, 1.0, omega))
    rest = generator - half_trace * np.eye(2)
    return even[..., None, None] * np.eye(2) + odd[..., None, None] * rest


def determinant(matrix: Array) -> Array:
    """Return the determinants (...) of matrices (..., 2, 2)."""
    return matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]


def inverse(matrix: Array) -> Array:
    """Return the inverses (..., 2, 2)."""
    adjugate = np.stack(
        [
            np.stack([matrix[..., 1, 1], -matrix[..., 0, 1]], axis=-1),
            np.stack([-matrix[..., 1, 0], matrix[..., 0, 0]], axis=-1),
        ],
        axis=-2,
    )
    return adjugate / determinant(matrix)[..., None, None]


def cholesky(covariance: Array) -> Array:
    """Return L (..., 2, 2), lower triangular with L L^T = ``covariance``; NaN where it is not positive definite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        xx = np.sqrt(covariance[..., 0, 0])
        vx = covariance[..., 1, 0] / xx
        vv = np.sqrt(determinant(covariance)) / xx
    factor = np.zeros_like(covariance)
    factor[..., 0, 0], factor[..., 1, 0], factor[..., 1, 1] = xx, vx, vv
    bad = ~(np.isfinite(factor).all((-1, -2)) & (xx > 0) & (vv > 0))
    return np.where(bad[..., None, None], np.nan, factor)
