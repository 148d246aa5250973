# SPDX-License-Identifier: Apache-2.0
"""Adams methods: the integral over a step of the polynomial through the values of the last evaluations."""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import Array

NODES = 16
"""Gauss-Legendre nodes a step: exact to rounding for the exponentials and polynomials of a step's length here."""


def past(edges: Array, count: int, *, ahead: bool = False) -> Array:
    """(n, count) what each of n steps interpolates at: ``edges`` (n + 1,) of 0, 1, ... steps ago, NaN before the first.

    With ``ahead`` the step's end stands before them.
    """
    n = len(edges) - 1
    known = np.append(np.full(count, np.nan), edges)
    newest = np.arange(n) + count + ahead
    return np.stack([known[newest - j] for j in range(count)], axis=1)


def lagrange(points: Array, at: Array) -> Array:
    """The Lagrange polynomials through ``points`` (n, p) at ``at`` (n, k) -> (n, k, p); 0 where a point is NaN."""
    basis = np.zeros((*at.shape, points.shape[1]))
    for j in range(points.shape[1]):
        others = np.delete(points, j, axis=1)[:, None, :]
        ratios = (at[..., None] - others) / (points[:, None, j : j + 1] - others)
        here = ~np.isnan(points[:, j])
        basis[here, :, j] = np.prod(np.where(np.isnan(others), 1.0, ratios), axis=-1)[here]
    return basis


def nodes(edges: Array) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights (n, NODES) over each step between ``edges`` (n + 1,)."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    half = np.diff(edges)[:, None] / 2
    return edges[:-1, None] + half * (x + 1), half * w


def mean_weights(points: Array, at: Array, density: Array) -> Array:
    """(n, p) weights of the values at ``points`` (n, p) in their polynomial's mean over each step.

    Args:
        points: where the values are; NaN where there is none.
        at: (n, k) nodes of a quadrature.
        density: (n, k) what they weigh; the mean is by their sum.
    """
    return np.einsum("nk,nkp->np", density, lagrange(points, at)) / density.sum(1, keepdims=True)
