# SPDX-License-Identifier: Apache-2.0
"""The built-in data sets: scikit-learn's digits, tinted by class, and 2-D points with many modes.

Every call returns the same data.  Every fifth sample of a class is in the split "test", the others in "train", and all
in "all".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde_fast.errors import require_packages, unknown_message

SPLITS = ("all", "test", "train")
TEST_EVERY = 5

DIGITS_CLASSES = 10
DIGITS_SIZE = 16
DIGITS_SATURATION = 0.75
DIGITS_HUE_JITTER = 0.02

POINTS = 50_000

ROLL_CENTRES = 1.06 * np.array([[0.0, 0.0], [-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
ROLL_RADIUS = 0.64
ROLL_NOISE = 0.015

DIAMOND_SIDE = 5
DIAMOND_SPACING = 2**-0.5
DIAMOND_NOISE = 0.05


def load_dataset(name: str, split: str = "all") -> tuple[Tensor, Tensor]:
    """Return images (N, 3, H, W) uint8 or points (N, 2, 1, 1) float32, and labels (N,) int64.

    Raises:
        ValueError: the data set or the split is unknown.
        MissingPackageError: scikit-learn, which the digits need, is not installed.
    """
    if name not in DATASETS:
        raise ValueError(unknown_message("data set", name, DATASETS))
    return DATASETS[name](split)


def digits(split: str = "all") -> tuple[Tensor, Tensor]:
    """Return the 1 797 digits, enlarged to 16x16, and their labels, in scikit-learn's order; see `load_dataset`.

    The gray digit is the V channel of HSV; the hue is class / 10, jittered by at most 0.02.
    """
    require_packages("the digits data set", "scikit-learn")
    from sklearn.datasets import load_digits

    source = load_digits()
    labels = torch.from_numpy(source.target).long()
    small = torch.from_numpy(source.images)[:, None] / 16
    gray = F.interpolate(small, size=(DIGITS_SIZE, DIGITS_SIZE), mode="bicubic").clamp(0, 1)[:, 0]
    jitter = np.random.Generator(np.random.PCG64(0)).uniform(-DIGITS_HUE_JITTER, DIGITS_HUE_JITTER, len(labels))
    rgb = _hsv_to_rgb(labels / DIGITS_CLASSES + torch.from_numpy(jitter), gray)
    rank = F.one_hot(labels, DIGITS_CLASSES).cumsum(0).gather(1, labels[:, None])[:, 0] - 1
    mask = _split_mask(split, rank)
    return (255 * rgb).round().to(torch.uint8)[mask], labels[mask]


def swiss_roll(split: str = "all") -> tuple[Tensor, Tensor]:
    """Return five Swiss rolls, one at the centre of the other four, and the index of each point's roll.

    A roll is one and a half turns of an Archimedean spiral, uniform in its angle, with Gaussian noise of standard
    deviation 0.015; each coordinate has a variance of about 1.  Reimplemented, like `diamond`, from the description in
    Dockhorn et al. 2022; see also `load_dataset`.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    angle = np.pi * generator.uniform(1.5, 4.5, POINTS)
    spiral = (ROLL_RADIUS / (4.5 * np.pi)) * angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return _labelled(ROLL_CENTRES, spiral + ROLL_NOISE * generator.standard_normal((POINTS, 2)), split)


def diamond(split: str = "all") -> tuple[Tensor, Tensor]:
    """Return samples from 25 Gaussians with standard deviation 0.05 on a rotated 5x5 grid, and their modes' indices.

    Each coordinate has a variance of about 1; see also `load_dataset`.
    """
    generator = np.random.Generator(np.random.PCG64(1))
    return _labelled(diamond_centres(), DIAMOND_NOISE * generator.standard_normal((POINTS, 2)), split)


DATASETS: dict[str, Callable[[str], tuple[Tensor, Tensor]]] = {
    "diamond": diamond,
    "digits": digits,
    "swiss_roll": swiss_roll,
}
"""Functions of a split that return the same as `load_dataset`."""
POINT_SETS = frozenset({"diamond", "swiss_roll"})
"""Data sets of points; the others are of images."""


def diamond_centres() -> npt.NDArray[np.float64]:
    """Return the modes of `diamond` (25, 2): a square grid rotated by 45 degrees, with unit variance per coordinate."""
    steps = np.arange(DIAMOND_SIDE) - (DIAMOND_SIDE - 1) / 2
    grid = DIAMOND_SPACING * np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    return grid @ np.array([[1.0, 1.0], [-1.0, 1.0]]) / np.sqrt(2)


def _labelled(centres: npt.NDArray[np.float64], offsets: npt.NDArray[np.float64], split: str) -> tuple[Tensor, Tensor]:
    """Return a split of the points ``centres[i mod K] + offsets[i]``, and their labels i mod K."""
    rank, labels = np.divmod(np.arange(POINTS), len(centres))
    mask = _split_mask(split, torch.from_numpy(rank))
    points = torch.from_numpy((centres[labels] + offsets).astype(np.float32))
    return points[mask][:, :, None, None], torch.from_numpy(labels)[mask]


def _hsv_to_rgb(hue: Tensor, value: Tensor) -> Tensor:
    """Convert hue (N,) of period 1 and value (N, H, W) in [0, 1] to RGB (N, 3, H, W), with fixed saturation."""
    turns = (hue[:, None] + torch.tensor([0.0, 2 / 3, 1 / 3], dtype=hue.dtype)) % 1
    pure = ((6 * turns - 3).abs() - 1).clamp(0, 1)
    return value[:, None] * (1 - DIGITS_SATURATION * (1 - pure))[:, :, None, None]


def _split_mask(split: str, rank: Tensor) -> Tensor:
    """Return the boolean mask (N,) of a split; ``rank`` (N,) is each sample's index within its class."""
    if split not in SPLITS:
        raise ValueError(unknown_message("split", split, SPLITS))
    in_test = rank % TEST_EVERY == 0
    return {"all": torch.ones_like(in_test), "test": in_test, "train": ~in_test}[split]
