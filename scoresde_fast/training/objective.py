# SPDX-License-Identifier: Apache-2.0
"""The loss that a configuration trains on: which objective, which times, and how 8-bit images become data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.configs.schema import DataConfig
from scoresde_fast.model import ScoreModel
from scoresde_fast.sdes import CLDSDE, VESDE, VPSDE, Array
from scoresde_fast.training.losses import (
    ddpm_loss,
    score_matching_loss,
    smld_loss,
    training_times,
    velocity_score_matching_loss,
)


def unit_images(images: Tensor, noise: Tensor, data: DataConfig) -> Tensor:
    """8-bit images (B, C, H, W) -> [0, 1]; where ``data`` says so dequantised by ``noise``, uniform in [0, 1]."""
    return (images.float() + noise) / 256 if data.uniform_dequantization else images.float() / 255


def objective(model: ScoreModel, x0: Tensor, u: Array, z: Tensor, z_v0: Tensor) -> Tensor:
    """The training loss of the model's configuration, averaged over the batch.

    Args:
        x0: (B, C, ...) data in the model's range.
        u: (B,) uniform in [0, 1], from which the times come, or the noise levels of a discrete model.
        z: (B, *state_shape) normal noise.
        z_v0: (B, C, ...) normal noise of CLD's initial velocity.

    Raises:
        ValueError: the model is discrete in time on an SDE that has no such objective.
    """
    training, sde = model.config.training, model.sde
    if not training.continuous:
        return _discrete(model, x0, u, z)
    times = training_times(u, sde.T, training.loss_eps, quadratic=training.loss_times == "quadratic")
    if isinstance(sde, CLDSDE):
        return velocity_score_matching_loss(
            model, x0, times, z, z_v0, weighting=training.weighting, reduce_mean=training.reduce_mean
        )
    return score_matching_loss(
        model,
        x0,
        times,
        z,
        likelihood_weighting=training.likelihood_weighting,
        reduce_mean=training.reduce_mean,
    )


def _discrete(model: ScoreModel, x0: Tensor, u: Array, z: Tensor) -> Tensor:
    scales, sde, mean = model.config.model.num_scales, model.sde, model.config.training.reduce_mean
    labels = torch.from_numpy(np.minimum((u * scales).astype(np.int64), scales - 1)).to(x0.device)
    if isinstance(sde, VESDE):
        return smld_loss(model.network, sde, scales, x0, labels, z, reduce_mean=mean)
    if isinstance(sde, VPSDE):
        return ddpm_loss(model.network, sde, scales, x0, labels, z, reduce_mean=mean)
    raise ValueError(
        f"training.continuous is false, and on the SDE {sde.name!r} there is only the continuous objective"
    )
