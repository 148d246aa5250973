# SPDX-License-Identifier: Apache-2.0
"""Gaussian mixtures: score models with the exact score at every time, for any SDE of this package."""

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
    """Parametrisation of a network that takes the time itself and returns the score."""

    def labels(self, t: Time) -> Array:
        return as_times(t)

    def output_scale(self, t: Time) -> Array:
        return as_times(t) * 0 + 1


def gaussian_marginals(sde: SDE, t: Array, variances: Array) -> tuple[Array, Array]:
    """Return the marginals of a pixel with data N(m, variances[k]), for every k.

    On CLD the velocity starts as N(0, gamma M) with either objective, as in sampling.

    Args:
        t: (B,) times.
        variances: (K,).

    Returns:
        The mean (B, parts) for m = 1, and the covariance (B, K, parts, parts).
    """
    if isinstance(sde, CLDSDE):
        whole = replace(sde, objective="hsm")
        kernels = [whole.marginal(t, float(variance)) for variance in variances]
        return kernels[0].mean[..., 0], np.stack([kernel.covariance for kernel in kernels], axis=1)
    assert isinstance(sde, ScalarSDE)
    scale, std = (value[:, None] for value in sde.marginal(t))
    return scale, (scale**2 * variances + std**2)[..., None, None]


class MixtureScore(nn.Module):
    """The score of a mixture of isotropic Gaussians under an SDE; see `GaussianMixture`.

    In a component every pixel has its own mean and the same covariance of ``parts`` numbers. Coefficients are computed
    in float64, the rest in the dtype of the state.
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
        """Score of the last part, as of every score model: (B, parts C, H, W), (B,) -> (B, C, H, W)."""
        return self.joint_score(x, t).chunk(self.sde.parts, dim=1)[-1]

    def joint_score(self, x: Tensor, t: Tensor) -> Tensor:
        """grad_x log p_t(x) of every part: (B, parts C, H, W), (B,) -> (B, parts C, H, W)."""
        scores, log_density = self._components(x, t)
        # Without softmax, which has no forward-mode rule: its fallback takes ten times as long.
        share = (log_density - log_density.detach().amax(1, keepdim=True)).exp()
        return ((share / share.sum(1, keepdim=True))[..., None, None] * scores).sum(1).reshape(x.shape)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x): (B, parts C, H, W), (B,) -> (B,)."""
        return self._components(x, t)[1].logsumexp(1)

    def _components(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score (B, K, parts, D) and the log joint density (B, K) of every component, for D pixels."""
        means = self.means.flatten(1).to(x.dtype)
        if x[0].numel() != self.sde.parts * means.shape[1]:
            raise ValueError(
                f"states have shape {tuple(x.shape[1:])}; those of this mixture of {tuple(self.means.shape[1:])} on "
                f"the SDE {self.sde.name!r} must have {self.sde.parts} x {means.shape[1]} numbers"
            )
        # A sampler has one time for the whole batch, whose coefficients are computed once.
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
    """The exact score model of data sum_k weights[k] N(means[k], stds[k]^2 I), for any SDE of this package.

    On CLD the initial velocity is N(0, gamma M), and `score` is that of the velocity, as for every CLD model.

    Args:
        sde: the forward process.
        weights: K positive numbers; they are normalised.
        means: (K, C, H, W) in the range of the data; images in [0, 1] are not rescaled.
        stds: K positive numbers.
        is_image: samples are images, clipped to [0, 1]; else points, used as they are.

    Raises:
        ValueError: the numbers of components differ, or a weight or std is not positive.
    """

    network: MixtureScore

    def __init__(
        self, sde: SDE, weights: Sequence[float], means: Tensor, stds: Sequence[float], *, is_image: bool = True
    ) -> None:
        if not len(weights) == len(means) == len(stds):
            raise ValueError(
                f"{len(weights)} weights, {len(means)} means and {len(stds)} stds; give one of each for every component"
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
        """Return the exact score model of data N(mean, std^2 I)."""
        return cls(sde, [1.0], torch.full((1, *image_shape), mean, dtype=torch.float64), [std])

    def joint_score(self, x: Tensor, t: Tensor) -> Tensor:
        """Score of the whole state, on CLD of position and velocity: (B, *state_shape), (B,) -> the same shape."""
        return self.network.joint_score(x, t)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x): (B, *state_shape), (B,) -> (B,)."""
        return self.network.log_density(x, t)
