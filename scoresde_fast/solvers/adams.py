# SPDX-License-Identifier: Apache-2.0
"""Weights of Adams methods: the polynomial through the last evaluations, integrated over each step by quadrature."""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import Array

NODES = 16
"""Number of Gauss-Legendre nodes per step: exact to rounding for the integrands of these methods."""


def evaluation_points(edges: Array, count: int, *, ahead: bool = False) -> Array:
    """Return, for each step between ``edges`` (n + 1,), the last ``count`` edges, newest first: (n, count).

    The newest is the start of the step, or with ``ahead`` its end.  Entries before the first edge are NaN.
    """
    padded = np.append(np.full(count, np.nan), edges)
    newest = np.arange(len(edges) - 1) + count + ahead
    return np.stack([padded[newest - j] for j in range(count)], axis=1)


def lagrange(points: Array, at: Array) -> Array:
    """Return the Lagrange polynomials of ``points`` (n, p) at ``at`` (n, k) as (n, k, p); 0 for points that are NaN."""
    basis = np.zeros((*at.shape, points.shape[1]))
    for j in range(points.shape[1]):
        others = np.delete(points, j, axis=1)[:, None, :]
        ratios = (at[..., None] - others) / (points[:, None, j : j + 1] - others)
        exists = ~np.isnan(points[:, j])
        basis[exists, :, j] = np.prod(np.where(np.isnan(others), 1.0, ratios), axis=-1)[exists]
    return basis


def gauss_legendre(edges: Array) -> tuple[Array, Array]:
    """Return Gauss-Legendre nodes and weights, (n, NODES) each, for the steps between ``edges`` (n + 1,)."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    half = np.diff(edges)[:, None] / 2
    return edges[:-1, None] + half * (x + 1), half * w


def mean_weights(points: Array, nodes: Array, density: Array) -> Array:
    """Return the weights (n, p) by which values at ``points`` give the mean of their polynomial over each step.

    Args:
        points: (n, p) interpolation points; NaN for values that do not exist.
        nodes: (n, k) quadrature nodes.
        density: (n, k) quadrature weights, not normalised.
    """
    return np.einsum("nk,nkp->np", density, lagrange(points, nodes)) / density.sum(1, keepdims=True)
