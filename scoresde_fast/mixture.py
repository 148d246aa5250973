# SPDX-License-Identifier: Apache-2.0
"""Gaussian mixtures: score models whose score is exact at every time, under any SDE here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scoresde_fast.model import Parametrisation, ScoreFunction
from scoresde_fast.sdes import SDE, Array, Time
from scoresde_fast.sdes.base import as_times


@dataclass(frozen=True)
class ExactScore(Parametrisation):
    """A function of time itself whose output is the score."""

    def labels(self, t: Time) -> Array:
        return as_times(t)

    def output_scale(self, t: Time) -> Array:
        return as_times(t) * 0 + 1


class MixtureScore(nn.Module):
    """``score(x, t)`` of a mixture of isotropic Gaussians under an SDE; see `GaussianMixture`."""

    log_weights: Tensor
    means: Tensor
    stds: Tensor

    def __init__(self, sde: SDE, weights: Tensor, means: Tensor, stds: Tensor) -> None:
        super().__init__()
        self.sde = sde
        self.register_buffer("log_weights", (weights / weights.sum()).log())
        self.register_buffer("means", means)
        self.register_buffer("stds", stds)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, *shape), (B,) -> (B, *shape)."""
        away, variance, log_density = self._components(x, t)
        posterior = torch.softmax(log_density, dim=1)
        return -((posterior / variance)[:, :, None] * away).sum(1).reshape(x.shape)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x): (B, *shape), (B,) -> (B,)."""
        return self._components(x, t)[2].logsumexp(1)

    def _components(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x - mean (B, K, D), variance (B, K) and log joint density (B, K) of every component at t."""
        scale, std = (
            torch.from_numpy(value).to(x.device, x.dtype)[:, None]
            for value in self.sde.marginal(t.detach().double().cpu().numpy())
        )
        means, stds = self.means.flatten(1).to(x.dtype), self.stds.to(x.dtype)
        away = x.flatten(1)[:, None] - scale[..., None] * means[None]
        variance = (scale * stds[None]) ** 2 + std**2
        quadratic = (away**2).sum(-1) / variance + away.shape[-1] * (2 * math.pi * variance).log()
        return away, variance, self.log_weights.to(x.dtype) - quadratic / 2


class GaussianMixture(ScoreFunction):
    """The exact score model of data sum_k weights[k] N(means[k], stds[k]^2 I), under any SDE here.

    Args:
        sde: the forward process.
        weights: K positive numbers, normalised here.
        means: (K, C, H, W), in the range of the data itself: [0, 1] images are not rescaled.
        stds: K positive numbers.

    Raises:
        ValueError: the numbers of components differ, or a weight or deviation is not positive.
    """

    network: MixtureScore

    def __init__(self, sde: SDE, weights: Sequence[float], means: Tensor, stds: Sequence[float]) -> None:
        if not len(weights) == len(means) == len(stds):
            raise ValueError(
                f"{len(weights)} weights, {len(means)} means and {len(stds)} stds: a component has one of each"
            )
        if min(*weights, *stds, 1.0) <= 0:
            raise ValueError(f"weights {list(weights)} and stds {list(stds)} of a mixture must all be greater than 0")
        network = MixtureScore(
            sde,
            torch.tensor(weights, dtype=torch.float64),
            means.double(),
            torch.tensor(stds, dtype=torch.float64),
        )
        super().__init__(network, ExactScore(sde), tuple(means.shape[1:]), centered=False)

    @classmethod
    def gaussian(cls, sde: SDE, mean: float, std: float, image_shape: Sequence[int]) -> GaussianMixture:
        """The exact score model of data N(mean, std^2 I)."""
        return cls(sde, [1.0], torch.full((1, *image_shape), mean), [std])
