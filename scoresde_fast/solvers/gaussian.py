# SPDX-License-Identifier: Apache-2.0
"""The exact distribution of a run on Gaussian data, without drawing a sample.

The score of Gaussian data is linear in the state, so every row is an affine map of the registers and the distribution
stays Gaussian: `propagate` carries its mean and covariance through a table.  Testing a solver is then linear algebra.
A state here is one element of an image, or one pair (x, v).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scoresde_fast.sdes import CLDSDE, SDE, Array, ScalarSDE
from scoresde_fast.sdes.linalg import inverse
from scoresde_fast.solvers.table import HISTORY, AnyRow, PairRow, StepTable

REGISTERS = 2 + HISTORY
"""The state, the saved state, and the derived outputs, newest first."""
SAVED, NEWEST = 1, 2


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian state: ``mean`` (parts,) and ``covariance`` (parts, parts)."""

    mean: Array
    covariance: Array


def marginal(sde: SDE, t: float, mean: float, std: float) -> Gaussian:
    """The state at ``t`` for data N(mean, std^2)."""
    if isinstance(sde, CLDSDE):
        kernel = sde.marginal(t, position_variance=std**2)
        return Gaussian(kernel.mean[:, 0] * mean, kernel.covariance)
    assert isinstance(sde, ScalarSDE)
    scale, noise = sde.marginal(t)
    return Gaussian(np.array([scale * mean]), np.array([[(scale * std) ** 2 + noise**2]]))


def prior(sde: SDE) -> Gaussian:
    """The prior, in which sampling starts at T."""
    return Gaussian(np.zeros(sde.parts), np.diag(np.square(sde.prior_stds)))


def propagate(table: StepTable, sde: SDE, data: tuple[float, float], start: Gaussian) -> Gaussian:
    """Return the state after a run.

    Args:
        table: the rows of a solver.
        sde: the SDE for which the table was built.
        data: mean and deviation of the Gaussian data, whose exact score drives the run.
        start: the state at T.

    A Langevin row takes the step size in the limit of many elements, with mean squares in place of the norms.
    """
    p = sde.parts
    means: Array = np.zeros(REGISTERS * p)
    covariance: Array = np.zeros((REGISTERS * p, REGISTERS * p))
    means[:p], covariance[:p, :p] = start.mean, start.covariance
    for row in table.rows:
        evaluate, shift, combine, noise = row_maps(row, sde, data)
        means, covariance = evaluate @ means + shift, evaluate @ covariance @ evaluate.T
        if row.langevin is not None:
            step = row.langevin / (covariance[NEWEST, NEWEST] + means[NEWEST] ** 2)
            combine[0, NEWEST] *= step
            noise = noise * np.sqrt(2 * step)
        means, covariance = combine @ means, combine @ covariance @ combine.T
        covariance[:p, :p] += noise @ noise.T
    return Gaussian(means[:p], covariance[:p, :p])


def row_maps(row: AnyRow, sde: SDE, data: tuple[float, float]) -> tuple[Array, Array, Array, Array]:
    """The maps of a row on the registers: the evaluation's matrix and shift, the step's matrix, the noise's factor."""
    p = sde.parts
    size = REGISTERS * p
    evaluate, shift, combine = np.eye(size), np.zeros(size), np.eye(size)
    if row.derive is not None:
        from_state, from_score = (np.reshape(part, (p, -1)) for part in row.derive)
        here = marginal(sde, row.t, *data)
        # The score of the last part: of the image, or of the velocity.
        slope = -(inverse(here.covariance) if p == 2 else 1 / here.covariance)[-1:]
        newest = slice(NEWEST * p, (NEWEST + 1) * p)
        evaluate[NEWEST * p :] = np.eye(size)[SAVED * p : -p]
        evaluate[newest] = 0.0
        evaluate[newest, :p] = from_state + from_score @ slope
        shift[newest] = -(from_score @ slope @ here.mean)
    combine[:p] = 0.0
    for index, matrix in enumerate([row.state, row.saved, *row.outputs]):
        combine[:p, index * p : (index + 1) * p] = matrix
    if row.save:
        combine[SAVED * p : NEWEST * p] = np.eye(size)[:p]
    noise = row.noise if isinstance(row, PairRow) else np.array([[row.noise]])
    return evaluate, shift, combine, noise
