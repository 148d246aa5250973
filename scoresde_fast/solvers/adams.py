# SPDX-License-Identifier: Apache-2.0
"""Adams methods: polynomials through the last evaluations, integrated over a step.

`ExponentialAdams` is the family in data prediction, with or without a corrector and noise.  With h the length of a step
in half the log-SNR, the equation of `noise_schedule` has the solution

    x' = std' / std exp(-eta^2 h) x + scale' (1 - exp(-(1 + eta^2) h)) m + std' sqrt(1 - exp(-2 eta^2 h)) z,

where m is the mean of x0 over the step with the weight exp((1 + eta^2) l).  A method replaces x0 by the polynomial
through its last values.  A predictor has the values up to the start of the step.  A corrector also has the value at the
end of the step, where the network has been evaluated, and shares the predictor's noise.  Both have the same decay of x,
so the corrected state is the predicted one plus a combination of outputs.  The row of the next step includes that
combination, and so a step costs one evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule
from scoresde_fast.solvers.table import AnyRow, Row

NODES = 16
"""Gauss-Legendre nodes per step: exact to rounding for the exponentials and polynomials of a step here."""


@dataclass(frozen=True)
class ExponentialAdams:
    """An exponential Adams method.

    Attributes:
        order: number of values that the predictor interpolates; the corrector has one more.
        corrector: whether there is a corrector.
        eta: the noise, relative to that of the reverse SDE.
        midpoint: take the mean of a straight line at the middle of the step, as DPM-Solver++ and UniPC (with
            B(h) = e^h - 1) publish it, instead of its exact mean; the order is the same.
    """

    order: int
    corrector: bool = False
    eta: float = 0.0
    midpoint: bool = False

    def rows(self, sde: ScalarSDE, grid: TimeGrid) -> list[AnyRow]:
        """The rows of the table; the first steps use the past values that exist."""
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
        """(n, count) weights of the values of x0, newest first; with ``ahead`` the first is at the end of the step."""
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
    """(n, count) the ``edges`` (n + 1,) at which each step knows values: 0, 1, ... steps ago, NaN before the first.

    With ``ahead`` the end of the step comes first.
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
        known = ~np.isnan(points[:, j])
        basis[known, :, j] = np.prod(np.where(np.isnan(others), 1.0, ratios), axis=-1)[known]
    return basis


def gauss_legendre(edges: Array) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights, (n, NODES) each, over every step between ``edges`` (n + 1,)."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    half = np.diff(edges)[:, None] / 2
    return edges[:-1, None] + half * (x + 1), half * w


def mean_weights(points: Array, nodes: Array, density: Array) -> Array:
    """(n, p) weights of the values at ``points`` in the mean of their polynomial over each step.

    Args:
        points: (n, p) where the values are; NaN for values that do not exist.
        nodes: (n, k) quadrature nodes.
        density: (n, k) their weights, of any sum.
    """
    return np.einsum("nk,nkp->np", density, lagrange(points, nodes)) / density.sum(1, keepdims=True)
