# SPDX-License-Identifier: Apache-2.0
"""A score model whose posteriors are known: Gaussian data whose pixels are correlated, under any SDE here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from scoresde_fast.mixture import ExactScore, GaussianMixture, gaussian_marginals
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sdes import SDE, Array


class Moments(NamedTuple):
    """Mean (D,) and covariance (D, D) of flat images."""

    mean: Array
    covariance: Array


class CorrelatedScore(nn.Module):
    """The score of the last part of a state whose data is N(mean, covariance), both of a flat image."""

    def __init__(self, sde: SDE, mean: Array, covariance: Array) -> None:
        super().__init__()
        self.sde, self.mean = sde, torch.from_numpy(mean)
        self.variances, axes = np.linalg.eigh(covariance)
        self.axes = torch.from_numpy(axes)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, parts C, H, W), (B,) equal times -> (B, C, H, W)."""
        mean, covariance = gaussian_marginals(self.sde, t[:1].double().numpy(), self.variances)
        away = x.double().view(len(x), self.sde.parts, -1) - torch.from_numpy(mean)[..., None] * self.mean
        precision = torch.from_numpy(np.linalg.inv(covariance[0]))  # (D, parts, parts)
        score = -torch.einsum("dpq,bqd->bpd", precision, away @ self.axes)[:, -1] @ self.axes.T
        return (self.scale * score).view(len(x), -1, *x.shape[2:]).to(x.dtype)


class CorrelatedGaussian(ScoreFunction):
    """The exact score model of pixels that lie near each other being alike; numbers, not clipped."""

    def __init__(self, sde: SDE, shape: tuple[int, int, int] = (3, 2, 2)) -> None:
        places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
        distance = np.abs(places[:, None] - places[None]).sum(-1)
        self.data = Moments(0.5 + 0.1 * np.arange(len(places)) / len(places), 0.25 * 0.6**distance)
        super().__init__(
            CorrelatedScore(sde, *self.data), ExactScore(sde), shape, centered=False, is_image=False
        )  # fmt: skip

    def posterior(self, operator: Array, measured: Array, noise: float = 0.0) -> Moments:
        """Of the data given ``operator`` (M, D) x plus noise of that deviation = ``measured`` (M,)."""
        return _posterior(self.data, operator, measured, noise)


def mixture_posterior(model: GaussianMixture, operator: Array, measured: Array, noise: float = 0.0) -> Moments:
    """The same of a mixture of isotropic Gaussians."""
    network = model.network
    means, stds = network.means.flatten(1).double().numpy(), network.stds.double().numpy()
    log_weights, parts = [], []
    for weight, mean, std in zip(network.log_weights.double().numpy(), means, stds, strict=True):
        covariance = std**2 * np.eye(len(mean))
        away, evidence = measured - operator @ mean, _evidence(covariance, operator, noise)
        log_weights.append(weight - (away @ np.linalg.solve(evidence, away) + np.linalg.slogdet(evidence)[1]) / 2)
        parts.append(_posterior(Moments(mean, covariance), operator, measured, noise))
    weights = np.exp(np.array(log_weights) - max(log_weights))
    weights /= weights.sum()
    mean = sum(weight * part.mean for weight, part in zip(weights, parts, strict=True))
    second = sum(
        weight * (part.covariance + np.outer(part.mean - mean, part.mean - mean))
        for weight, part in zip(weights, parts, strict=True)
    )
    return Moments(np.asarray(mean), np.asarray(second))


def _posterior(data: Moments, operator: Array, measured: Array, noise: float) -> Moments:
    gain = data.covariance @ operator.T @ np.linalg.inv(_evidence(data.covariance, operator, noise))
    mean = data.mean + gain @ (measured - operator @ data.mean)
    return Moments(mean, data.covariance - gain @ operator @ data.covariance)


def _evidence(covariance: Array, operator: Array, noise: float) -> Array:
    """The covariance of what is measured."""
    measured: Array = operator @ covariance @ operator.T + noise**2 * np.eye(len(operator))
    return measured
