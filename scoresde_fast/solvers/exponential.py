# SPDX-License-Identifier: Apache-2.0
"""Exponential Adams methods in data prediction, with and without a corrector, with and without noise.

Over a step of length h in half the log-SNR the equation of `noise_levels` is solved by

    x' = std' / std exp(-eta^2 h) x + scale' (1 - exp(-(1 + eta^2) h)) m + std' sqrt(1 - exp(-2 eta^2 h)) z,

where m is the mean of x0 over the step with the weight exp((1 + eta^2) l), of which a method takes the polynomial
through the last values.  A predictor has those up to the step's beginning; a corrector, once the network has been
evaluated at the step's end, has that too and the predictor's noise.  Both have the same decay, so the corrected state
is the predicted one plus a combination of outputs, which joins the row of the next step: one evaluation a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers.adams import lagrange, mean_weights, nodes, past
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_levels import Levels
from scoresde_fast.solvers.table import AnyRow, Row


@dataclass(frozen=True)
class Adams:
    """One method.

    Attributes:
        order: values that the predictor interpolates; the corrector has one more.
        corrector: whether there is one.
        eta: the noise, as a share of that of the reverse SDE.
        midpoint: the mean of a straight line is taken at the middle of the step, as DPM-Solver++ and UniPC (with
            B(h) = e^h - 1) are published, and not with its weight; the order is the same.
    """

    order: int
    corrector: bool = False
    eta: float = 0.0
    midpoint: bool = False

    def rows(self, sde: ScalarSDE, grid: TimeGrid) -> list[AnyRow]:
        """The table's rows; the first steps have as many past values as there are."""
        levels = Levels.at(sde, grid.edges)
        share = self.eta**2 * levels.widths
        decay = levels.std[1:] / levels.std[:-1] * np.exp(-share)
        noise = levels.std[1:] * np.sqrt(-np.expm1(-2 * share))
        outputs = self.weights(levels, self.order)
        if self.corrector:
            predicted = np.pad(outputs, ((0, 0), (1, 0)))
            outputs = np.pad(outputs, ((0, 0), (0, 1)))
            outputs[1:] += decay[1:, None] * (self.weights(levels, self.order + 1, ahead=True) - predicted)[:-1]
        columns = zip(levels.times, levels.data_predictions(), decay, outputs, noise, strict=False)
        return [Row(t, derive, x, outputs=tuple(x0), noise=z) for t, derive, x, x0, z in columns]

    def weights(self, levels: Levels, count: int, *, ahead: bool = False) -> Array:
        """(n, count) coefficients of the values of x0; with ``ahead`` the one at the step's end is the first."""
        edges, rate = levels.half_log_snr, 1 + self.eta**2
        points = past(edges, count, ahead=ahead)
        at, measure = nodes(edges)
        means = mean_weights(points, at, measure * np.exp(rate * (at - edges[1:, None])))
        if self.midpoint:
            lines = np.isfinite(points).sum(1) == 2
            middle = (edges[:-1] + edges[1:])[lines, None] / 2
            means[lines] = lagrange(points[lines], middle)[:, 0]
        return (levels.scale[1:] * -np.expm1(-rate * levels.widths))[:, None] * means
