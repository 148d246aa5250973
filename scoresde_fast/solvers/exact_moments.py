# SPDX-License-Identifier: Apache-2.0
"""The exact distribution of a run on Gaussian data, computed without samples.

The score of Gaussian data is linear in the state, so every row is an affine map of the registers and the distribution
stays Gaussian: `propagate` carries its mean and covariance through a table.  A state is one element of an image, or one
pair (x, v).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scoresde_fast.sdes import CLDSDE, SDE, Array, ScalarSDE
from scoresde_fast.sdes.linalg import inverse
from scoresde_fast.solvers.table import HISTORY, MOST_FORGOTTEN, AnyRow, PairRow, StepTable

REGISTERS = 2 + HISTORY + MOST_FORGOTTEN
"""Number of registers: the state, the saved state, and the derived outputs, newest first."""
SAVED, NEWEST = 1, 2  # indices of the saved state and of the newest output


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian state: ``mean`` (parts,) and ``covariance`` (parts, parts)."""

    mean: Array
    covariance: Array


class RowMaps(NamedTuple):
    """A row on the registers r: r <- ``evaluate`` r + ``shift``, then r <- ``combine`` r, and noise on the state.

    Attributes:
        evaluate, shift: give the new derived output and move the older ones back by one.
        combine: gives the next state and the saved state.
        noise: factor of the normal noise that the state receives.
    """

    evaluate: Array
    shift: Array
    combine: Array
    noise: Array


def marginal(sde: SDE, t: float, mean: float, std: float) -> Gaussian:
    """Return the distribution of the state at ``t`` for data N(mean, std^2)."""
    if isinstance(sde, CLDSDE):
        kernel = sde.marginal(t, position_variance=std**2)
        return Gaussian(kernel.mean[:, 0] * mean, kernel.covariance)
    assert isinstance(sde, ScalarSDE)
    scale, noise = sde.marginal(t)
    return Gaussian(np.array([scale * mean]), np.array([[(scale * std) ** 2 + noise**2]]))


def prior(sde: SDE) -> Gaussian:
    """Return the prior, from which sampling starts at T."""
    return Gaussian(np.zeros(sde.parts), np.diag(np.square(sde.prior_stds)))


def propagate(table: StepTable, sde: SDE, data: tuple[float, float], start: Gaussian) -> Gaussian:
    """Return the distribution of the state after a run.

    Args:
        table: the rows of a solver.
        sde: the SDE for which the table was built.
        data: mean and standard deviation of the Gaussian data, whose exact score is used.
        start: the distribution of the state at T.

    The step size of Langevin rows is the limit for many elements: expectations replace squared norms.
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


def row_maps(row: AnyRow, sde: SDE, data: tuple[float, float]) -> RowMaps:
    """Return the maps of a row; the arguments are those of `propagate`."""
    p = sde.parts
    size = REGISTERS * p
    evaluate, shift, combine = np.eye(size), np.zeros(size), np.eye(size)
    if row.derive is not None:
        from_state, from_score = (np.reshape(part, (p, -1)) for part in row.derive)
        at_t = marginal(sde, row.t, *data)
        # The score of the last part, that is of the image or of the velocity, is slope (x - mean).
        slope = -(inverse(at_t.covariance) if p == 2 else 1 / at_t.covariance)[-1:]
        newest = slice(NEWEST * p, (NEWEST + 1) * p)
        evaluate[NEWEST * p :] = np.eye(size)[SAVED * p : -p]
        evaluate[newest] = 0.0
        evaluate[newest, :p] = from_state + from_score @ slope
        shift[newest] = -(from_score @ slope @ at_t.mean)
    combine[:p] = 0.0
    for index, matrix in enumerate([row.state, row.saved, *row.outputs]):
        combine[:p, index * p : (index + 1) * p] = matrix
    if row.forget:
        kept = (NEWEST + row.forget) * p
        combine[NEWEST * p : size - row.forget * p] = np.eye(size)[kept:]
    if row.save:
        combine[SAVED * p : NEWEST * p] = np.eye(size)[:p]
    noise = row.noise if isinstance(row, PairRow) else np.array([[row.noise]])
    return RowMaps(evaluate, shift, combine, noise)
