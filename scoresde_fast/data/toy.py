# SPDX-License-Identifier: Apache-2.0
"""Multimodal 2-D toy data, reimplemented from the description in Dockhorn et al. 2022."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scoresde_fast.data.splits import split_mask

POINTS = 50_000

ROLL_CENTRES = 1.06 * np.array([[0.0, 0.0], [-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
ROLL_RADIUS = 0.64
ROLL_NOISE = 0.015

DIAMOND_SIDE = 5
DIAMOND_SPACING = 2**-0.5
DIAMOND_NOISE = 0.05


def diamond_centres() -> npt.NDArray[np.float64]:
    """Return the modes of `diamond` (25, 2): a square grid rotated by 45 degrees, with unit variance per coordinate."""
    steps = np.arange(DIAMOND_SIDE) - (DIAMOND_SIDE - 1) / 2
    grid = DIAMOND_SPACING * np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    return grid @ np.array([[1.0, 1.0], [-1.0, 1.0]]) / np.sqrt(2)


def swiss_roll(split: str = "all") -> tuple[Tensor, Tensor]:
    """Return five Swiss rolls, one at the centre of the other four.

    The points are (N, 2, 1, 1) float32, the labels (N,) int64 are the indices of their rolls.  A roll is one and a half
    turns of an Archimedean spiral, uniform in its angle, with Gaussian noise of standard deviation 0.015; each
    coordinate has a variance of about 1.  ``split`` is "all", "train" or "test", see `split_mask`.  Every call returns
    the same points.

    Raises:
        ValueError: an unknown split.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    angle = np.pi * generator.uniform(1.5, 4.5, POINTS)
    spiral = (ROLL_RADIUS / (4.5 * np.pi)) * angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return _labelled(ROLL_CENTRES, spiral + ROLL_NOISE * generator.standard_normal((POINTS, 2)), split)


def diamond(split: str = "all") -> tuple[Tensor, Tensor]:
    """Return samples from 25 Gaussians with standard deviation 0.05 on a rotated 5x5 grid.

    The points are (N, 2, 1, 1) float32, the labels (N,) int64 are the indices of their modes; each coordinate has a
    variance of about 1.  ``split`` is "all", "train" or "test", see `split_mask`.  Every call returns the same points.

    Raises:
        ValueError: an unknown split.
    """
    generator = np.random.Generator(np.random.PCG64(1))
    return _labelled(diamond_centres(), DIAMOND_NOISE * generator.standard_normal((POINTS, 2)), split)


def _labelled(centres: npt.NDArray[np.float64], offsets: npt.NDArray[np.float64], split: str) -> tuple[Tensor, Tensor]:
    """Add ``offsets[i]`` to centre i mod K, so that all K modes have equal weight."""
    rank, labels = np.divmod(np.arange(POINTS), len(centres))
    mask = split_mask(split, torch.from_numpy(rank))
    points = torch.from_numpy((centres[labels] + offsets).astype(np.float32))
    return points[mask][:, :, None, None], torch.from_numpy(labels)[mask]
