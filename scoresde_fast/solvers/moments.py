# SPDX-License-Identifier: Apache-2.0
"""What a table does to a Gaussian: mean and covariance carried through its rows, exactly, without a sample.

With the score of Gaussian data, linear in the state, every row is an affine map of the registers, so the run's
distribution stays Gaussian and is known in closed form.  Testing a solver is then linear algebra.  A state here is one
element of an image, or one pair (x, v).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scoresde_fast.sdes import CLDSDE, SDE, Array, ScalarSDE
from scoresde_fast.sdes.pairs import inverse
from scoresde_fast.solvers.table import HISTORY, AnyRow, PairRow, StepTable

REGISTERS = 2 + HISTORY
"""The state, the saved state, and the derived outputs, newest first."""
SAVED, NEWEST = 1, 2


@dataclass(frozen=True, eq=False)
class Gaussian:
    """``mean`` (parts,) and ``covariance`` (parts, parts) of a state."""

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
    """The state at T that samplers begin with."""
    return Gaussian(np.zeros(sde.parts), np.diag(np.square(sde.prior_stds)))


def propagate(table: StepTable, sde: SDE, data: tuple[float, float], start: Gaussian) -> Gaussian:
    """The state after the run.

    Args:
        table: the solver's rows.
        sde: the SDE it was made for.
        data: mean and deviation of the Gaussian data whose exact score drives the run.
        start: the state at T.

    A Langevin row takes the step size that very many elements give: their mean squares in place of the norms.
    """
    p = sde.parts
    means: Array = np.zeros(REGISTERS * p)
    covariance: Array = np.zeros((REGISTERS * p, REGISTERS * p))
    means[:p], covariance[:p, :p] = start.mean, start.covariance
    for row in table.rows:
        register, shift, combine, noise = row_maps(row, sde, data)
        means, covariance = register @ means + shift, register @ covariance @ register.T
        if row.langevin is not None:
            step = row.langevin / (covariance[NEWEST, NEWEST] + means[NEWEST] ** 2)
            combine[0, NEWEST] *= step
            noise = noise * np.sqrt(2 * step)
        means, covariance = combine @ means, combine @ covariance @ combine.T
        covariance[:p, :p] += noise @ noise.T
    return Gaussian(means[:p], covariance[:p, :p])


def row_maps(row: AnyRow, sde: SDE, data: tuple[float, float]) -> tuple[Array, Array, Array, Array]:
    """What the evaluation does to the registers (matrix and shift), what the step does, and its noise's factor."""
    p = sde.parts
    size = REGISTERS * p
    register, shift, combine = np.eye(size), np.zeros(size), np.eye(size)
    if row.derive is not None:
        from_state, from_score = (np.reshape(part, (p, -1)) for part in row.derive)
        here = marginal(sde, row.t, *data)
        # the score of the last part: of the image, or of the velocity
        slope = -(inverse(here.covariance) if p == 2 else 1 / here.covariance)[-1:]
        register[NEWEST * p :] = np.eye(size)[SAVED * p : -p]
        register[NEWEST * p : (NEWEST + 1) * p] = 0.0
        register[NEWEST * p : (NEWEST + 1) * p, :p] = from_state + from_score @ slope
        shift[NEWEST * p : (NEWEST + 1) * p] = -(from_score @ slope @ here.mean)
    matrices = [row.state, row.saved, *row.outputs]
    combine[:p] = 0.0
    for index, matrix in enumerate(matrices):
        combine[:p, index * p : (index + 1) * p] = matrix
    if row.save:
        combine[SAVED * p : NEWEST * p] = np.eye(size)[:p]
    noise = row.noise if isinstance(row, PairRow) else np.array([[row.noise]])
    return register, shift, combine, noise
