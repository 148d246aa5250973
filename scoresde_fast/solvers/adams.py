# SPDX-License-Identifier: Apache-2.0
"""Adams methods: the polynomial through the last evaluations, integrated over a step.

`ExponentialAdams` is the family in data prediction, with or without a corrector and noise.  With h the length of a step
in half the log-SNR l, the equation of `noise_schedule` has the solution

    x' = std' / std exp(-eta^2 h) x + scale' (1 - exp(-(1 + eta^2) h)) m + std' sqrt(1 - exp(-2 eta^2 h)) z,

where m is the mean of x0 over the step with the weight exp((1 + eta^2) l).  A method replaces x0 by the polynomial
through its last values: a predictor uses the values up to the start of the step, a corrector also the value at its end.
Predictor and corrector have the same coefficient of x and the same noise z, so the corrected state is the predicted one
plus a combination of outputs.  The row of the next step adds this combination, so that a step costs one evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule
from scoresde_fast.solvers.table import AnyRow, Row

NODES = 16
"""Number of Gauss-Legendre nodes per step: exact to rounding for the integrands of these methods."""


@dataclass(frozen=True)
class ExponentialAdams:
    """An exponential Adams method.

    Attributes:
        order: number of values that the predictor interpolates; the corrector interpolates one more.
        corrector: whether there is a corrector.
        eta: noise relative to that of the reverse SDE.
        midpoint: for two values, take the polynomial at the middle of the step instead of its exact mean, as published
            for DPM-Solver++ and for UniPC with B(h) = e^h - 1; the order is the same.
    """

    order: int
    corrector: bool = False
    eta: float = 0.0
    midpoint: bool = False

    def rows(self, sde: ScalarSDE, grid: TimeGrid) -> list[AnyRow]:
        """Return one row per step; the first steps use the past values that exist."""
        schedule = NoiseSchedule.at(sde, grid.edges)
        exponent = self.eta**2 * schedule.h
        decay = schedule.std[1:] / schedule.std[:-1] * np.exp(-exponent)
        noise = schedule.std[1:] * np.sqrt(-np.expm1(-2 * exponent))
        outputs = self.weights(schedule, self.order)
        if self.corrector:
            predicted = np.pad(outputs, ((0, 0), (1, 0)))
            outputs = np.pad(outputs, ((0, 0), (0, 1)))
            outputs[1:] += decay[1:, None] * (self.weights(schedule, self.order + 1, ahead=True) - predicted)[:-1]
        columns = zip(schedule.times, schedule.data_predictions(), decay, outputs, noise, strict=False)
        return [Row(t, derive, x, outputs=tuple(x0), noise=z) for t, derive, x, x0, z in columns]

    def weights(self, schedule: NoiseSchedule, count: int, *, ahead: bool = False) -> Array:
        """Return the weights (n, count) of the values of x0, newest first; ``ahead``: from the end of the step on."""
        edges, rate = schedule.half_log_snr, 1 + self.eta**2
        points = evaluation_points(edges, count, ahead=ahead)
        nodes, weights = gauss_legendre(edges)
        means = mean_weights(points, nodes, weights * np.exp(rate * (nodes - edges[1:, None])))
        if self.midpoint:
            lines = np.isfinite(points).sum(1) == 2
            middle = (edges[:-1] + edges[1:])[lines, None] / 2
            means[lines] = lagrange(points[lines], middle)[:, 0]
        return (schedule.scale[1:] * -np.expm1(-rate * schedule.h))[:, None] * means


def evaluation_points(edges: Array, count: int, *, ahead: bool = False) -> Array:
    """Return, for each step between ``edges`` (n + 1,), the last ``count`` edges, newest first: (n, count).

    The newest is the start of the step, with ``ahead`` its end.  Entries before the first edge are NaN.
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
