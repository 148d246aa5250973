# SPDX-License-Identifier: Apache-2.0
"""Exact posteriors of linear measurements, and exact moments of a run with projection, on Gaussian data.

They are the ground truth for conditional samples, computed analytically.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from scoresde_fast.conditions.projection import projection_coefficients
from scoresde_fast.loop.condition import RunContext
from scoresde_fast.mixture import ExactScore, GaussianMixture, gaussian_marginals
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sdes import SDE, Array
from scoresde_fast.solvers import SolverOptions, build_table
from scoresde_fast.solvers.exact_moments import REGISTERS, prior, row_maps
from scoresde_fast.solvers.table import AnyRow


class Moments(NamedTuple):
    """Mean (D,) and covariance (D, D) of flat images."""

    mean: Array
    covariance: Array


class CorrelatedGaussian(ScoreFunction):
    """The exact score model of Gaussian data whose pixel correlation decays with distance; samples are not clipped."""

    def __init__(self, sde: SDE, shape: tuple[int, int, int] = (3, 2, 2)) -> None:
        coordinates = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
        distance = np.abs(coordinates[:, None] - coordinates[None]).sum(-1)
        self.data = Moments(0.5 + 0.1 * np.arange(len(coordinates)) / len(coordinates), 0.25 * 0.6**distance)
        score = _CorrelatedScore(sde, self.data)
        super().__init__(score, ExactScore(sde), shape, None)

    def posterior(self, operator: Array, measured: Array, noise: float = 0.0) -> Moments:
        """Return the moments of the data x, given ``measured`` (M,) = ``operator`` (M, D) x + N(0, noise^2)."""
        return _posterior(self.data, operator, measured, noise)


class _CorrelatedScore(nn.Module):
    """The score for data N(mean, covariance) of flat images; on CLD, the score of the velocity."""

    def __init__(self, sde: SDE, data: Moments) -> None:
        super().__init__()
        self.sde, self.mean = sde, torch.from_numpy(data.mean)
        self.variances, axes = np.linalg.eigh(data.covariance)
        self.axes = torch.from_numpy(axes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Map states (B, parts * C, H, W) and equal times (B,) to scores (B, C, H, W)."""
        mean, covariance = gaussian_marginals(self.sde, t[:1].double().numpy(), self.variances)
        residual = x.double().view(len(x), self.sde.parts, -1) - torch.from_numpy(mean)[..., None] * self.mean
        precision = torch.from_numpy(np.linalg.inv(covariance[0]))  # (D, parts, parts)
        score = -torch.einsum("dpq,bqd->bpd", precision, residual @ self.axes)[:, -1] @ self.axes.T
        return score.view(len(x), -1, *x.shape[2:]).to(x.dtype)


def mixture_posterior(model: GaussianMixture, operator: Array, measured: Array, noise: float = 0.0) -> Moments:
    """Return the moments of the data given a measurement, for a mixture of isotropic Gaussians."""
    network = model.network
    means, stds = network.means.flatten(1).double().numpy(), network.stds.double().numpy()
    log_weights, posteriors = [], []
    for log_weight, mean, std in zip(network.log_weights.double().numpy(), means, stds, strict=True):
        covariance = std**2 * np.eye(len(mean))
        residual, spread = measured - operator @ mean, _measurement_covariance(covariance, operator, noise)
        squared_distance = residual @ np.linalg.solve(spread, residual)
        log_weights.append(log_weight - (squared_distance + np.linalg.slogdet(spread)[1]) / 2)
        posteriors.append(_posterior(Moments(mean, covariance), operator, measured, noise))
    weights = np.exp(np.array(log_weights) - max(log_weights))
    weights /= weights.sum()
    mean = sum(weight * posterior.mean for weight, posterior in zip(weights, posteriors, strict=True))
    covariance = sum(
        weight * (posterior.covariance + np.outer(posterior.mean - mean, posterior.mean - mean))
        for weight, posterior in zip(weights, posteriors, strict=True)
    )
    return Moments(np.asarray(mean), np.asarray(covariance))


def _posterior(data: Moments, operator: Array, measured: Array, noise: float) -> Moments:
    gain = data.covariance @ operator.T @ np.linalg.inv(_measurement_covariance(data.covariance, operator, noise))
    mean = data.mean + gain @ (measured - operator @ data.mean)
    return Moments(mean, data.covariance - gain @ operator @ data.covariance)


def _measurement_covariance(covariance: Array, operator: Array, noise: float) -> Array:
    """Return the covariance (M, M) of the measurement."""
    return np.asarray(operator @ covariance @ operator.T + noise**2 * np.eye(len(operator)))


@dataclass(frozen=True, eq=False)
class AffineMoments:
    """Moments of flat images given a measurement: mean ``offset + gain @ measured``, and a constant covariance."""

    offset: Array
    gain: Array
    covariance: Array

    def mean(self, measured: Array) -> Array:
        """Return the mean (D,) for one measurement."""
        return np.asarray(self.offset + self.gain @ measured)

    def bias(self, truth: AffineMoments, operator: Array, data: Moments) -> tuple[float, float]:
        """Return the errors of mean and covariance against ``truth``, for measurements ``operator @ x`` of ``data``.

        The first is the RMS error of the mean over measurements, relative to sqrt(tr covariance) of ``truth``. The
        second is the relative Frobenius error of the covariance.
        """
        typical = operator @ data.mean
        constant, slope = self.mean(typical) - truth.mean(typical), (self.gain - truth.gain) @ operator
        mean_square = constant @ constant + np.trace(slope @ data.covariance @ slope.T)
        covariance_error = np.linalg.norm(self.covariance - truth.covariance) / np.linalg.norm(truth.covariance)
        return float(np.sqrt(mean_square / np.trace(truth.covariance))), float(covariance_error)


def posterior_moments(model: CorrelatedGaussian, operator: Array) -> AffineMoments:
    """Return the moments of the data given ``operator @ x`` (M,), measured without noise."""
    offset, covariance = model.posterior(operator, np.zeros(len(operator)))
    gain = [model.posterior(operator, unit).mean - offset for unit in np.eye(len(operator))]
    return AffineMoments(offset, np.stack(gain, axis=1), covariance)


def projected_moments(model: CorrelatedGaussian, options: SolverOptions, operator: Array) -> AffineMoments:
    """Return the moments of the samples of a run with a `Projection`.

    Every row and every projection is an affine map of the registers plus normal noise, so the samples are normal. The
    mean and the covariance of the registers are propagated through the run, in the eigenbasis of the data's covariance,
    where a row acts on each coordinate separately and only the projection couples coordinates.

    Args:
        model: the data and its exact score, which is linear in the state.
        options: a fixed-step solver; the corrector may be "ald", but not "langevin".
        operator: (M, D) with orthogonal rows of equal norm; the measurement is ``operator @ x``.

    Raises:
        ValueError: the step size of a row depends on the samples.
    """
    table = build_table(model.sde, options)
    levels = projection_coefficients(RunContext(model, table, options, torch.device("cpu")))
    registers = _Registers(model, operator)
    registers.project(levels[0])
    for row, level in zip(table.rows, levels[1:], strict=True):
        registers.step(row)
        registers.project(level)
    return registers.image()


class _Registers:
    """Mean and covariance of all registers; column 0 of ``mean`` is the offset, the others are the gain."""

    def __init__(self, model: CorrelatedGaussian, operator: Array) -> None:
        self.sde, self.parts, self.dims = model.sde, model.sde.parts, operator.shape[1]
        variances, self.axes = np.linalg.eigh(model.data.covariance)
        self.data = list(zip(self.axes.T @ model.data.mean, np.sqrt(variances), strict=True))
        self.norm = np.linalg.norm(operator, axis=1)[0]
        self.operator = operator @ self.axes / self.norm  # (M, D), orthonormal rows
        size = REGISTERS * self.parts * self.dims  # register, part, coordinate: the coordinate varies fastest
        start = prior(model.sde)
        self.mean: Array = np.zeros((size, 1 + len(operator)))
        self.covariance: Array = np.zeros((size, size))
        self.state = slice(self.parts * self.dims)
        self.mean[self.state, 0] = np.repeat(start.mean, self.dims)
        self.covariance[self.state, self.state] = np.kron(start.covariance, np.eye(self.dims))
        self._maps: tuple[AnyRow, Array, Array, Array] | None = None

    def step(self, row: AnyRow) -> None:
        """Apply one row of the table."""
        if row.langevin is not None:
            raise ValueError("a Langevin row's step size depends on the samples; choose the corrector 'ald'")
        if self._maps is None or self._maps[0] is not row:  # corrector steps repeat the same row
            maps = [row_maps(row, self.sde, data) for data in self.data]
            evaluate, shift, combine, factor = (np.stack(part) for part in zip(*maps, strict=True))
            offset = np.einsum("dpq,dq->pd", combine, shift).ravel()
            self._maps = row, self._blocks(combine @ evaluate), offset, self._blocks(factor @ factor.swapaxes(1, 2))
        _, step, offset, noise_covariance = self._maps
        self.mean = step @ self.mean
        self.mean[:, 0] += offset
        self.covariance = step @ self.covariance @ step.T
        self.covariance[self.state, self.state] += noise_covariance

    def _blocks(self, matrices: Array) -> Array:
        """Return the matrix (p D, q D) that applies ``matrices[d]`` (p, q) to coordinate d, for all D coordinates."""
        blocks = np.zeros((matrices.shape[1], self.dims, matrices.shape[2], self.dims))
        blocks[:, range(self.dims), :, range(self.dims)] = matrices
        return blocks.reshape(matrices.shape[1] * self.dims, -1)

    def project(self, level: Array) -> None:
        """Apply x <- x + A^T (scale A x0 + noise z - A x); on CLD to position and velocity, with correlated noise."""
        p, projector = self.parts, self.operator.T @ self.operator
        scale, noise, velocity_scale, velocity_noise_x, velocity_noise_v = level
        scales = np.array([scale, velocity_scale])[:p]
        factor = np.array([[noise, 0.0], [velocity_noise_x, velocity_noise_v]])[:p, :p]
        complement = np.kron(np.eye(p), np.eye(self.dims) - projector)
        self.mean[self.state] = complement @ self.mean[self.state]
        self.mean[self.state, 1:] += np.kron(scales[:, None], self.operator.T) / self.norm
        self.covariance[self.state] = complement @ self.covariance[self.state]
        self.covariance[:, self.state] = self.covariance[:, self.state] @ complement.T
        self.covariance[self.state, self.state] += np.kron(factor @ factor.T, projector)

    def image(self) -> AffineMoments:
        """Return the moments of the state; on CLD, of the position."""
        mean = self.axes @ self.mean[: self.dims]
        covariance = self.axes @ self.covariance[: self.dims, : self.dims] @ self.axes.T
        return AffineMoments(mean[:, 0], mean[:, 1:], covariance)
