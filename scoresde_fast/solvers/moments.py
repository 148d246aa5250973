# SPDX-License-Identifier: Apache-2.0
"""What a table does to a Gaussian: mean and variance carried through its rows, exactly, without a sample.

With the score of Gaussian data, a(t) x + b(t), every row is an affine map of the registers, so the run's distribution
stays Gaussian and is known in closed form.  Testing a solver is then linear algebra.
"""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import SDE, Array, Time
from scoresde_fast.solvers.table import HISTORY, StepTable

STATE, SAVED, NEWEST = 0, 1, 2


def gaussian_score(sde: SDE, t: Time, mean: float, std: float) -> tuple[Array, Array]:
    """(a, b) of the score a x + b at ``t`` for data N(mean, std^2)."""
    scale, noise = sde.marginal(t)
    variance = (scale * std) ** 2 + noise**2
    return -1 / variance, scale * mean / variance


def propagate(table: StepTable, sde: SDE, data: tuple[float, float], start: tuple[float, float]) -> tuple[float, float]:
    """Mean and variance of one element after the run.

    Args:
        table: the solver's rows.
        sde: the SDE it was made for.
        data: mean and deviation of the Gaussian data whose exact score drives the run.
        start: mean and variance of the state at T.

    A Langevin row takes the step size that very many elements give: their mean squares in place of the norms.
    """
    size = NEWEST + HISTORY
    means, covariance = np.zeros(size), np.zeros((size, size))
    means[STATE], covariance[STATE, STATE] = start
    slopes, offsets = gaussian_score(sde, table.times, *data)
    for row, coefficients, slope, offset in zip(table.rows, table.coefficients, slopes, offsets, strict=True):
        x_factor, saved_factor, *outputs, noise = coefficients
        register = np.eye(size)
        shift = np.zeros(size)
        if row.derive is not None:
            register[NEWEST + 1 :, NEWEST + 1 :] = 0.0
            for older in range(NEWEST + 1, size):
                register[older, older - 1] = 1.0
            register[NEWEST] = 0.0
            register[NEWEST, STATE] = row.derive[0] + row.derive[1] * slope
            shift[NEWEST] = row.derive[1] * offset
        means, covariance = register @ means + shift, register @ covariance @ register.T
        if row.langevin is not None:
            step = row.langevin / (covariance[NEWEST, NEWEST] + means[NEWEST] ** 2)
            outputs = [output * step for output in outputs]
            noise = noise * np.sqrt(2 * step)
        combine = np.eye(size)
        combine[STATE] = [x_factor, saved_factor, *outputs]
        if row.save:
            combine[SAVED] = np.eye(size)[STATE]
        means, covariance = combine @ means, combine @ covariance @ combine.T
        covariance[STATE, STATE] += noise**2
    return float(means[STATE]), float(covariance[STATE, STATE])
