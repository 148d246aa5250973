# SPDX-License-Identifier: Apache-2.0
"""Scikit-learn's handwritten digits, enlarged to 16x16 and tinted by class."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde_fast.errors import require_packages, unknown_message

CLASSES = 10
SIZE = 16
SATURATION = 0.75
HUE_JITTER = 0.02
HELD_OUT_EVERY = 5
SPLITS = ("all", "test", "train")


def hsv_to_rgb(hue: Tensor, saturation: float, value: Tensor) -> Tensor:
    """Convert hues (N,) in turns and values (N, H, W) in [0, 1], the largest channels, to RGB (N, 3, H, W)."""
    turns = (hue[:, None] + torch.tensor([0.0, 2 / 3, 1 / 3], dtype=hue.dtype)) % 1
    pure = ((6 * turns - 3).abs() - 1).clamp(0, 1)
    return value[:, None] * (1 - saturation * (1 - pure))[:, :, None, None]


def digits(split: str = "all") -> tuple[Tensor, Tensor]:
    """Return the 1 797 digits as uint8 images (N, 3, 16, 16) and int64 labels (N,), in scikit-learn's order.

    The gray digit is the largest of an image's channels; its hue is class / 10 with a jitter of at most 0.02 turns.
    ``split`` is "all", "train" or "test", see `in_split`.  Every call returns the same images.

    Raises:
        ValueError: the split is unknown.
        MissingPackageError: scikit-learn is not installed.
    """
    require_packages("the data set of digits", "scikit-learn")
    from sklearn.datasets import load_digits

    source = load_digits()
    labels = torch.from_numpy(source.target).long()
    small = torch.from_numpy(source.images)[:, None] / 16
    gray = F.interpolate(small, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1)[:, 0]
    jitter = np.random.Generator(np.random.PCG64(0)).uniform(-HUE_JITTER, HUE_JITTER, len(labels))
    colours = hsv_to_rgb(labels / CLASSES + torch.from_numpy(jitter), SATURATION, gray)
    images = (255 * colours).round().to(torch.uint8)

    rank = F.one_hot(labels, CLASSES).cumsum(0).gather(1, labels[:, None])[:, 0] - 1
    kept = in_split(split, rank)
    return images[kept], labels[kept]


def in_split(split: str, rank: Tensor) -> Tensor:
    """Return which samples are in a split, (N,) bool; ``rank`` (N,) counts the samples of each class.

    Every fifth sample of a class is in "test", the others in "train", and all in "all".

    Raises:
        ValueError: the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(unknown_message("split", split, SPLITS))
    held_out = rank % HELD_OUT_EVERY == 0
    return {"all": torch.ones_like(held_out), "test": held_out, "train": ~held_out}[split]
