# SPDX-License-Identifier: Apache-2.0
"""Measurements made of images, and measurements to look at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde_fast.conditions.operators import Mask
from scoresde_fast.conditions.operators.text import Operator
from scoresde_fast.noise import Noise

DRAW = 2**32 - 1
"""The noise's draw, the last one: what a run draws, its conditions included, comes before."""


def measure(operator: Operator, images: Tensor, noise: float, *, seeds: Sequence[int], run_seed: int) -> Tensor:
    """A x + noise z of images (N, C, H, W), where z is the normals of their seeds: (N, ...)."""
    seen = operator.apply(images)
    normals = Noise(run_seed, torch.tensor(list(seeds), dtype=torch.int64)).normal(DRAW, tuple(seen.shape[1:]))
    return seen + noise * normals


def known_pixels(operator: Operator, image_shape: Sequence[int]) -> Tensor:
    """Where the measurement of an image (C, H, W) has a value, (1, C, H, W) bool."""
    ones = torch.ones(1, *image_shape)
    return operator.apply(ones) > 0 if isinstance(operator, Mask) else ones > 0


def enlarged(measured: Tensor, image_shape: Sequence[int]) -> Tensor:
    """What was measured, (N, C', H', W'), as images (N, C, H, W) in [0, 1] of the shape of what it was measured of."""
    channels, height, width = image_shape
    large = measured.repeat_interleave(height // measured.shape[2], dim=2)
    large = large.repeat_interleave(width // measured.shape[3], dim=3)
    return large.expand(-1, channels, -1, -1).clamp(0, 1)
