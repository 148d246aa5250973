# SPDX-License-Identifier: Apache-2.0
"""Denoising score matching: the continuous, discrete and CLD losses, and the choice by configuration."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.configs import DataConfig, TrainingConfig
from scoresde_fast.model import ScoreFunction, ScoreModel, as_column
from scoresde_fast.parametrisation import OfficialParametrisation
from scoresde_fast.sdes import CLDSDE, VESDE, VPSDE, Array, ScalarSDE


def unit_images(images: Tensor, noise: Tensor, data: DataConfig) -> Tensor:
    """Scale 8-bit images (B, C, H, W) to [0, 1]; uniform dequantization first adds ``noise`` in [0, 1]."""
    return (images.float() + noise) / 256 if data.uniform_dequantization else images.float() / 255


def objective(model: ScoreModel, x0: Tensor, u: Array, z: Tensor, z_v0: Tensor) -> Tensor:
    """Return the training loss of the model's configuration, averaged over the batch.

    Args:
        x0: (B, C, ...) data in the model's range.
        u: (B,) uniform numbers in [0, 1], which determine the times, or the noise levels of a discrete model.
        z: (B, *state_shape) normal noise.
        z_v0: (B, C, ...) normal noise of CLD's initial velocity.

    Raises:
        ValueError: the model is discrete in time, but its SDE has no discrete objective.
    """
    training, sde = model.config.training, model.sde
    if not training.continuous:
        scales = _num_scales(model)
        labels = torch.from_numpy(np.minimum((u * scales).astype(np.int64), scales - 1)).to(x0.device)
        if isinstance(sde, VESDE):
            return smld_loss(model, x0, labels, z, training)
        if isinstance(sde, VPSDE):
            return ddpm_loss(model, x0, labels, z, training)
        raise ValueError(f"training.continuous is false, but the SDE {sde.name!r} has only the continuous objective")
    t = (u**2 if training.loss_times == "quadratic" else u) * (sde.T - training.loss_eps) + training.loss_eps
    if isinstance(sde, CLDSDE):
        return velocity_score_matching_loss(model, x0, t, z, z_v0, training)
    return score_matching_loss(model, x0, t, z, training)


def score_matching_loss(model: ScoreFunction, x0: Tensor, t: Array, z: Tensor, training: TrainingConfig) -> Tensor:
    """Return the continuous denoising score matching loss (Song et al. 2021, equation 7), averaged over the batch.

    Args:
        x0: (B, ...) data in the model's range.
        t: (B,) float64 times.
        z: normal noise with the shape of ``x0``.
        training: with ``likelihood_weighting`` the weight is g(t)^2, which bounds the likelihood, otherwise std(t)^2.
            ``reduce_mean`` averages over a sample's dimensions; otherwise the loss is half their sum.
    """
    sde = model.sde
    assert isinstance(sde, ScalarSDE)
    scale, std = (as_column(value, x0) for value in sde.marginal(t))
    score = model.score(scale * x0 + std * z, torch.from_numpy(t))
    if not training.likelihood_weighting:
        return _reduce((score * std + z) ** 2, training).mean()
    weight = torch.from_numpy(sde.diffusion(t) ** 2).to(x0.device, x0.dtype)
    return (weight * _reduce((score + z / std) ** 2, training)).mean()


def velocity_score_matching_loss(
    model: ScoreFunction, x0: Tensor, t: Array, z: Tensor, z_v0: Tensor, training: TrainingConfig
) -> Tensor:
    """Return CLD's score matching loss of the velocity (Dockhorn et al. 2022, section 3.1), averaged over the batch.

    The SDE's objective "hsm" marginalises the initial velocity; "dsm" draws it with the data.

    Args:
        x0: (B, C, ...) positions in the model's range.
        t: (B,) float64 times.
        z: (B, 2C, ...) normal noise of position and velocity.
        z_v0: (B, C, ...) normal noise of the initial velocity; "hsm" ignores it.
        training: with ``weighting`` "likelihood" the loss is (s_v + l_t z_v)^2 beta Gamma, which bounds the likelihood.
            "reweightedv1" divides s_v + l_t z_v by l_t; "reweightedv2" also leaves out beta Gamma.  ``reduce_mean``
            averages over a sample's dimensions; otherwise the loss is their sum.
    """
    sde = model.sde
    assert isinstance(sde, CLDSDE)
    v0 = math.sqrt(sde.gamma * sde.mass) * z_v0 if sde.objective == "dsm" else torch.zeros_like(x0)
    u = _apply(sde.marginal(t).mean, torch.cat([x0, v0], dim=1)) + _apply(sde.cholesky(t), z)
    ell = as_column(sde.ell(t), x0)
    error = model.score(u, torch.from_numpy(t)) + ell * z.chunk(2, dim=1)[1]
    if training.weighting != "likelihood":
        error = error / ell
    losses = (error**2).flatten(1)
    losses = losses.mean(1) if training.reduce_mean else losses.sum(1)
    if training.weighting != "reweightedv2":
        losses = losses * torch.from_numpy(sde.damping * sde.beta(t)).to(losses)
    return losses.mean()


def smld_loss(model: ScoreFunction, x0: Tensor, labels: Tensor, z: Tensor, training: TrainingConfig) -> Tensor:
    """Return the score matching loss of discrete VE models (Song & Ermon 2019); label 0 is the largest noise."""
    assert isinstance(model.sde, VESDE)
    scales = _num_scales(model)
    sigma = as_column(model.sde.noise_levels(scales)[scales - 1 - labels.cpu().numpy()], x0)
    score = model.network(x0 + sigma * z, labels)
    return (_reduce((score + z / sigma) ** 2, training) * sigma.flatten() ** 2).mean()


def ddpm_loss(model: ScoreFunction, x0: Tensor, labels: Tensor, z: Tensor, training: TrainingConfig) -> Tensor:
    """Return the noise prediction loss of discrete VP models (Ho et al. 2020); label 0 is the smallest noise."""
    assert isinstance(model.sde, VPSDE)
    std = model.sde.discrete_std(labels.cpu().numpy(), _num_scales(model))
    x = as_column(np.sqrt(1 - std**2), x0) * x0 + as_column(std, x0) * z
    return _reduce((model.network(x, labels) - z) ** 2, training).mean()


def _num_scales(model: ScoreFunction) -> int:
    """Return the number of noise levels of a discrete model."""
    assert isinstance(model.parametrisation, OfficialParametrisation)  # others are not trained here
    return model.parametrisation.num_scales


def _apply(matrices: Array, pair: Tensor) -> Tensor:
    """Multiply (position, velocity) in ``pair`` (B, 2C, ...) by NumPy matrices (B, 2, 2)."""
    x, v = pair.chunk(2, dim=1)
    rows = [as_column(row[:, 0], x) * x + as_column(row[:, 1], v) * v for row in (matrices[:, 0], matrices[:, 1])]
    return torch.cat(rows, dim=1)


def _reduce(losses: Tensor, training: TrainingConfig) -> Tensor:
    """Return the mean, or half the sum, over all dimensions but the first."""
    flat = losses.flatten(1)
    return flat.mean(1) if training.reduce_mean else 0.5 * flat.sum(1)
