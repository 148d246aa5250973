# SPDX-License-Identifier: Apache-2.0
"""``langevin_step``: the Langevin corrector, whose step size depends on the norms of the score and of the noise."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

LangevinNorm = Literal["sample", "batch"]


def langevin_step(state: Tensor, score: Tensor, noise: Tensor, factor: Tensor, norm: LangevinNorm) -> Tensor:
    """state + e score + sqrt(2 e) noise with e = factor (|noise| / |score|)^2 (Song et al. 2021, algorithms 4 and 5).

    Args:
        state, score, noise: (B, ...) float32.
        factor: scalar, 2 alpha snr^2.
        norm: "batch": |.| is the mean over the batch of the samples' norms, as published; "sample": each sample's own,
            so that a sample does not depend on its batch.
    """
    noise_norm, score_norm = noise.flatten(1).norm(dim=1), score.flatten(1).norm(dim=1)
    if norm == "batch":
        noise_norm, score_norm = noise_norm.mean(), score_norm.mean()
    size = (factor * (noise_norm / score_norm) ** 2).reshape(-1, *[1] * (state.ndim - 1))
    return state + size * score + (2 * size).sqrt() * noise
