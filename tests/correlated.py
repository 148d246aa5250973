# SPDX-License-Identifier: Apache-2.0
"""A score model whose posteriors are known: Gaussian data whose pixels are correlated, under any SDE here."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from scoresde_fast.mixture import ExactScore, gaussian_marginals
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sdes import SDE


class CorrelatedScore(nn.Module):
    """The score of the last part of a state whose data is N(mean, covariance), both of a flat image."""

    def __init__(self, sde: SDE, mean: np.ndarray, covariance: np.ndarray) -> None:
        super().__init__()
        self.sde, self.mean = sde, torch.from_numpy(mean)
        self.variances, axes = np.linalg.eigh(covariance)
        self.axes = torch.from_numpy(axes)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
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
        self.data_covariance = 0.25 * 0.6**distance
        self.data_mean = 0.5 + 0.1 * np.arange(len(places)) / len(places)
        super().__init__(
            CorrelatedScore(sde, self.data_mean, self.data_covariance), ExactScore(sde), shape, centered=False,
            is_image=False,
        )  # fmt: skip

    def posterior(self, operator: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean (D,) and covariance (D, D) of the data given ``operator`` (M, D) x = ``measured`` (M,)."""
        gain = self.data_covariance @ operator.T @ np.linalg.inv(operator @ self.data_covariance @ operator.T)
        mean = self.data_mean + gain @ (measured - operator @ self.data_mean)
        return mean, self.data_covariance - gain @ operator @ self.data_covariance
