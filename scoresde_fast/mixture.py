# SPDX-License-Identifier: Apache-2.0
"""Gaussian mixtures: score models whose score is exact at every time, under any SDE here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from scoresde_fast.model import Parametrisation, ScoreFunction
from scoresde_fast.sdes import CLDSDE, SDE, Array, ScalarSDE, Time
from scoresde_fast.sdes.base import as_times


@dataclass(frozen=True)
class ExactScore(Parametrisation):
    """A function of time itself whose output is the score."""

    def labels(self, t: Time) -> Array:
        return as_times(t)

    def output_scale(self, t: Time) -> Array:
        return as_times(t) * 0 + 1


def gaussian_marginals(sde: SDE, t: Array, variances: Array) -> tuple[Array, Array]:
    """The Gaussians that the SDE makes of a pixel whose data is N(m, variances[k]), one for every k.

    On CLD the velocity starts as N(0, gamma M), whatever the objective: that is how the data is sampled.

    Args:
        t: (B,) times.
        variances: (K,).

    Returns:
        ``mean`` (B, parts), to be multiplied by m, and the covariance (B, K, parts, parts).
    """
    if isinstance(sde, CLDSDE):
        whole = replace(sde, objective="hsm")
        kernels = [whole.marginal(t, float(variance)) for variance in variances]
        return kernels[0].mean[..., 0], np.stack([kernel.covariance for kernel in kernels], axis=1)
    assert isinstance(sde, ScalarSDE)
    scale, std = (value[:, None] for value in sde.marginal(t))
    return scale, (scale**2 * variances + std**2)[..., None, None]


class MixtureScore(nn.Module):
    """``score(x, t)`` of a mixture of isotropic Gaussians under an SDE; see `GaussianMixture`.

    A component is the same Gaussian of ``parts`` numbers in every pixel, around a mean of the pixel's own.  Its
    coefficients are made in float64; the rest is computed in the dtype of the state.
    """

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
        """What a score model gives, the score of the last part: (B, parts C, H, W), (B,) -> (B, C, H, W)."""
        return self.joint_score(x, t).chunk(self.sde.parts, dim=1)[-1]

    def joint_score(self, x: Tensor, t: Tensor) -> Tensor:
        """grad_x log p_t(x) of every part: (B, parts C, H, W), (B,) -> (B, parts C, H, W)."""
        scores, log_density = self._components(x, t)
        # By hand: softmax has no forward-mode rule of its own, and what stands in for it takes ten times as long.
        share = (log_density - log_density.detach().amax(1, keepdim=True)).exp()
        return ((share / share.sum(1, keepdim=True))[..., None, None] * scores).sum(1).reshape(x.shape)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x): (B, parts C, H, W), (B,) -> (B,)."""
        return self._components(x, t)[1].logsumexp(1)

    def _components(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Score (B, K, parts, D) and log joint density (B, K) of every component at t, of D pixels."""
        means = self.means.flatten(1).to(x.dtype)
        if x[0].numel() != self.sde.parts * means.shape[1]:
            raise ValueError(
                f"states have shape {tuple(x.shape[1:])}; those of this mixture of {tuple(self.means.shape[1:])} on "
                f"the SDE {self.sde.name!r} have {self.sde.parts} x {means.shape[1]} numbers"
            )
        # A sampler asks for one time for the whole batch: its coefficients are made once.
        times, sample_time = t.detach().double().cpu().unique(return_inverse=True)
        mean, covariance = gaussian_marginals(self.sde, times.numpy(), self.stds.double().cpu().numpy() ** 2)
        scale, precision, log_volume = (
            torch.from_numpy(value).to(x.device, x.dtype)[sample_time.to(x.device)]
            for value in (mean, np.linalg.inv(covariance), np.linalg.slogdet(2 * math.pi * covariance)[1])
        )
        away = x.reshape(len(x), 1, self.sde.parts, -1) - scale[:, None, :, None] * means[:, None]
        scores = -(precision[..., None] * away[:, :, None]).sum(3)
        quadratic = -(away * scores).sum((-1, -2))
        return scores, self.log_weights.to(x.dtype) - (quadratic + away.shape[-1] * log_volume) / 2


class GaussianMixture(ScoreFunction):
    """The exact score model of data sum_k weights[k] N(means[k], stds[k]^2 I), under any SDE here.

    On CLD the initial velocity is N(0, gamma M); `score` is that of the velocity, as of every CLD model.

    Args:
        sde: the forward process.
        weights: K positive numbers, normalised here.
        means: (K, C, H, W), in the range of the data itself: [0, 1] images are not rescaled.
        stds: K positive numbers.
        is_image: samples are images, clipped to [0, 1]; else points, which are taken as they are.

    Raises:
        ValueError: the numbers of components differ, or a weight or deviation is not positive.
    """

    network: MixtureScore

    def __init__(
        self, sde: SDE, weights: Sequence[float], means: Tensor, stds: Sequence[float], *, is_image: bool = True
    ) -> None:
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
        super().__init__(network, ExactScore(sde), tuple(means.shape[1:]), centered=False, is_image=is_image)

    @classmethod
    def gaussian(cls, sde: SDE, mean: float, std: float, image_shape: Sequence[int]) -> GaussianMixture:
        """The exact score model of data N(mean, std^2 I)."""
        return cls(sde, [1.0], torch.full((1, *image_shape), mean, dtype=torch.float64), [std])

    def joint_score(self, x: Tensor, t: Tensor) -> Tensor:
        """The whole score, on CLD that of position and velocity: (B, *state_shape), (B,) -> (B, *state_shape)."""
        return self.network.joint_score(x, t)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x): (B, *state_shape), (B,) -> (B,)."""
        return self.network.log_density(x, t)
