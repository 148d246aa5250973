# SPDX-License-Identifier: Apache-2.0
"""Exact moments of a sampling run that is held to a measurement, for correlated Gaussian data: no sample is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from scoresde_fast.bench.correlated import CorrelatedGaussian, Moments
from scoresde_fast.conditions.projection import run_noise_levels
from scoresde_fast.loop.condition import RunContext
from scoresde_fast.sdes import Array
from scoresde_fast.solvers import SolverOptions, build_table
from scoresde_fast.solvers.gaussian import REGISTERS, prior, row_maps
from scoresde_fast.solvers.table import AnyRow


@dataclass(frozen=True, eq=False)
class AffineMoments:
    """Normal vectors (D,) with mean ``offset + gain @ measured`` and one covariance, for every measurement (M,)."""

    offset: Array
    gain: Array
    covariance: Array

    def mean(self, measured: Array) -> Array:
        """(D,) for one measurement."""
        mean: Array = self.offset + self.gain @ measured
        return mean

    def bias(self, truth: AffineMoments, operator: Array, data: Moments) -> tuple[float, float]:
        """How far mean and covariance are from those of ``truth``, for measurements ``operator @ x`` of such data.

        Of the mean the root mean square over all measurements, in standard deviations sqrt(tr covariance) of the truth;
        of the covariance the Frobenius distance, in units of the truth's norm.
        """
        typical = operator @ data.mean
        constant, slope = self.mean(typical) - truth.mean(typical), (self.gain - truth.gain) @ operator
        mean_square = constant @ constant + np.trace(slope @ data.covariance @ slope.T)
        away = np.linalg.norm(self.covariance - truth.covariance) / np.linalg.norm(truth.covariance)
        return float(np.sqrt(mean_square / np.trace(truth.covariance))), float(away)


def posterior_moments(model: CorrelatedGaussian, operator: Array) -> AffineMoments:
    """The data given ``operator @ x`` (M,) without noise."""
    offset, covariance = model.posterior(operator, np.zeros(len(operator)))
    gain = [model.posterior(operator, unit).mean - offset for unit in np.eye(len(operator))]
    return AffineMoments(offset, np.stack(gain, axis=1), covariance)


def projected_moments(model: CorrelatedGaussian, options: SolverOptions, operator: Array) -> AffineMoments:
    """What a run with these options and a `Projection` draws, for every measurement.

    Every row and every projection is an affine map of the registers plus normal noise, so the samples are normal; this
    carries their mean and covariance through the run. Registers are in the eigenbasis of the data's covariance, where a
    row acts on each coordinate alone; the projection couples the coordinates.

    Args:
        model: the data and its exact score, which is linear in the state.
        options: a solver of fixed steps; of the correctors "ald", since the step size of "langevin" depends on the
            samples.
        operator: (M, D) with orthogonal rows of equal length: the measurement is ``operator @ x``.

    Raises:
        ValueError: a row's step size depends on the samples.
    """
    table = build_table(model.sde, options)
    levels = run_noise_levels(RunContext(model, table, options, torch.device("cpu")))
    registers = _Registers(model, operator)
    registers.project(levels[0])
    for row, level in zip(table.rows, levels[1:], strict=True):
        registers.step(row)
        registers.project(level)
    return registers.image()


class _Registers:
    """Mean and covariance of every register of a run; the columns of the mean are its offset and its gain."""

    def __init__(self, model: CorrelatedGaussian, operator: Array) -> None:
        self.sde, self.parts, self.dims = model.sde, model.sde.parts, operator.shape[1]
        variances, self.axes = np.linalg.eigh(model.data.covariance)
        self.data = list(zip(self.axes.T @ model.data.mean, np.sqrt(variances), strict=True))
        self.norm = np.linalg.norm(operator, axis=1)[0]
        self.operator = operator @ self.axes / self.norm  # (M, D), orthonormal rows
        self.size = REGISTERS * self.parts
        # Registers lie one after the other, and in each part of one every coordinate.
        start = prior(model.sde)
        self.mean: Array = np.zeros((self.size * self.dims, 1 + len(operator)))
        self.covariance: Array = np.zeros((self.size * self.dims,) * 2)
        self.state = slice(self.parts * self.dims)
        self.mean[self.state, 0] = np.repeat(start.mean, self.dims)
        self.covariance[self.state, self.state] = np.kron(start.covariance, np.eye(self.dims))
        self._maps: tuple[AnyRow, Array, Array, Array] | None = None

    def step(self, row: AnyRow) -> None:
        """One row of the table."""
        if row.langevin is not None:
            raise ValueError("a Langevin row's step size depends on the samples; choose the corrector 'ald'")
        if self._maps is None or self._maps[0] is not row:
            maps = [row_maps(row, self.sde, data) for data in self.data]
            register, shift, combine, noise = (np.stack(part) for part in zip(*maps, strict=True))
            moved = np.einsum("dpq,dq->pd", combine, shift).ravel()
            self._maps = row, self._blocks(combine @ register), moved, self._blocks(noise @ noise.swapaxes(1, 2))
        _, step, moved, noise = self._maps
        self.mean = step @ self.mean
        self.mean[:, 0] += moved
        self.covariance = step @ self.covariance @ step.T
        self.covariance[self.state, self.state] += noise

    def _blocks(self, matrices: Array) -> Array:
        """(D, p, q), one for each coordinate -> the matrix (p D, q D) that acts on all."""
        whole = np.zeros((matrices.shape[1], self.dims, matrices.shape[2], self.dims))
        whole[:, range(self.dims), :, range(self.dims)] = matrices
        return whole.reshape(matrices.shape[1] * self.dims, -1)

    def project(self, level: Array) -> None:
        """x <- x + A^T (scale A x0 + noise z - A x), of both parts of a pair by their joint noise."""
        p, known = self.parts, self.operator.T @ self.operator
        scale, noise, velocity_scale, velocity_noise_x, velocity_noise_v = level
        scales = np.array([scale, velocity_scale])[:p]
        factor = np.array([[noise, 0.0], [velocity_noise_x, velocity_noise_v]])[:p, :p]
        away = np.kron(np.eye(p), np.eye(self.dims) - known)
        self.mean[self.state] = away @ self.mean[self.state]
        self.mean[self.state, 1:] += np.kron(scales[:, None], self.operator.T) / self.norm
        self.covariance[self.state] = away @ self.covariance[self.state]
        self.covariance[:, self.state] = self.covariance[:, self.state] @ away.T
        self.covariance[self.state, self.state] += np.kron(factor @ factor.T, known)

    def image(self) -> AffineMoments:
        """Of the state, or of a pair's position."""
        mean = self.axes @ self.mean[: self.dims]
        covariance = self.axes @ self.covariance[: self.dims, : self.dims] @ self.axes.T
        return AffineMoments(mean[:, 0], mean[:, 1:], covariance)
