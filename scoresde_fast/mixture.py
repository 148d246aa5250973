# SPDX-License-Identifier: Apache-2.0
"""Gaussian mixtures: score models with the exact score at every time, for any SDE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from scoresde_fast.model import ScoreFunction
from scoresde_fast.parametrisation import Parametrisation
from scoresde_fast.sdes import CLDSDE, SDE, Array, ScalarSDE, Time
from scoresde_fast.sdes.base import as_times


@dataclass(frozen=True)
class ExactScore(Parametrisation):
    """Parametrisation of a network that takes the time and returns the score."""

    def labels(self, t: Time) -> Array:
        return as_times(t)

    def output_scale(self, t: Time) -> Array:
        return np.ones_like(as_times(t))


def gaussian_marginals(sde: SDE, t: Array, variances: Array) -> tuple[Array, Array]:
    """Return the marginals of a pixel with data N(m, variances[k]), for every k.

    On CLD a pixel has two parts, position and velocity, otherwise one; the initial velocity is N(0, gamma M), as in
    sampling, whatever the objective of ``sde``.

    Args:
        t: (B,) times.
        variances: (K,) variances of the data.

    Returns:
        The mean (B, parts) for m = 1, and the covariance (B, K, parts, parts).
    """
    if isinstance(sde, CLDSDE):
        kernels = [sde.marginal(t, float(variance), objective="hsm") for variance in variances]
        return kernels[0].mean[..., 0], np.stack([kernel.covariance for kernel in kernels], axis=1)
    assert isinstance(sde, ScalarSDE)
    scale, std = (value[:, None] for value in sde.marginal(t))
    return scale, (scale**2 * variances + std**2)[..., None, None]


class MixtureScore(nn.Module):
    """The score of a mixture of isotropic Gaussians under an SDE; see `GaussianMixture`.

    The pixels of a component differ in their means and share a covariance (parts, parts). On CLD the parts are position
    and velocity, otherwise just the pixel. Coefficients are computed in float64, the rest in the dtype of the state.
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
        """Return the score (B, C, H, W) at ``x`` (B, parts C, H, W); on CLD it is that of the velocity."""
        return self.joint_score(x, t).chunk(self.sde.parts, dim=1)[-1]

    def joint_score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return grad_x log p_t(x) of every part, with the shape of ``x`` (B, parts C, H, W)."""
        scores, log_density = self._components(x, t)
        # Softmax by hand: torch's has no forward-mode rule, and the fallback takes ten times as long.
        weights = (log_density - log_density.detach().amax(1, keepdim=True)).exp()
        return ((weights / weights.sum(1, keepdim=True))[..., None, None] * scores).sum(1).reshape(x.shape)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p_t(x) (B,) of ``x`` (B, parts C, H, W)."""
        return self._components(x, t)[1].logsumexp(1)

    def _components(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score (B, K, parts, D) and the log joint density (B, K) of every component, for D pixels."""
        means = self.means.flatten(1).to(x.dtype)
        if x[0].numel() != self.sde.parts * means.shape[1]:
            raise ValueError(
                f"states have shape {tuple(x.shape[1:])}; for this mixture of {tuple(self.means.shape[1:])} on the SDE "
                f"{self.sde.name!r} they must have {self.sde.parts} x {means.shape[1]} elements"
            )
        # Usually all samples have the same time, so coefficients are computed once for each different time.
        times, sample_time = t.detach().double().cpu().unique(return_inverse=True)
        mean, covariance = gaussian_marginals(self.sde, times.numpy(), self.stds.double().cpu().numpy() ** 2)
        scale, precision, log_volume = (
            torch.from_numpy(value).to(x.device, x.dtype)[sample_time.to(x.device)]
            for value in (mean, np.linalg.inv(covariance), np.linalg.slogdet(2 * math.pi * covariance)[1])
        )
        difference = x.reshape(len(x), 1, self.sde.parts, -1) - scale[:, None, :, None] * means[:, None]
        scores = -(precision[..., None] * difference[:, :, None]).sum(3)
        quadratic = -(difference * scores).sum((-1, -2))
        return scores, self.log_weights.to(x.dtype) - (quadratic + difference.shape[-1] * log_volume) / 2


class GaussianMixture(ScoreFunction):
    """The exact score model of data sum_k weights[k] N(means[k], stds[k]^2 I), for any SDE.

    On CLD the initial velocity is N(0, gamma M), and `score` is the score of the velocity, as for every CLD model.

    Args:
        sde: the forward process.
        weights: K positive weights; they are normalised.
        means: (K, C, H, W) means in the range of the data; images in [0, 1] are not rescaled.
        stds: K positive standard deviations.
        is_image: samples are images, clipped to [0, 1]; otherwise points.

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
        if min([*weights, *stds]) <= 0:
            raise ValueError(f"weights {list(weights)} and stds {list(stds)} of a mixture must all be greater than 0")
        network = MixtureScore(
            sde,
            torch.tensor(weights, dtype=torch.float64, device="cpu"),
            means.double(),
            torch.tensor(stds, dtype=torch.float64, device="cpu"),
        )
        super().__init__(network, ExactScore(sde), tuple(means.shape[1:]), (0.0, 1.0) if is_image else None)

    @classmethod
    def gaussian(cls, sde: SDE, mean: float, std: float, image_shape: Sequence[int]) -> GaussianMixture:
        """Return the exact score model of data N(mean, std^2 I)."""
        return cls(sde, [1.0], torch.full((1, *image_shape), mean, dtype=torch.float64, device="cpu"), [std])

    def joint_score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the score of the whole state ``x`` (B, *state_shape), which on CLD is position and velocity."""
        return self.network.joint_score(x, t)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p_t(x) (B,) of ``x`` (B, *state_shape)."""
        return self.network.log_density(x, t)
