# SPDX-License-Identifier: Apache-2.0
"""Scikit-learn's handwritten digits, enlarged to 16x16 and tinted by class."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde_fast.data.splits import split_mask
from scoresde_fast.errors import require_packages

CLASSES = 10
SIZE = 16
SATURATION = 0.75
HUE_JITTER = 0.02


def digits(split: str = "all") -> tuple[Tensor, Tensor]:
    """Return the 1 797 digits as uint8 images (N, 3, 16, 16) and int64 labels (N,), in scikit-learn's order.

    The gray digit is the V channel of HSV; the hue is class / 10, jittered by at most 0.02.  ``split`` is "all",
    "train" or "test", see `split_mask`.  Every call returns the same images.

    Raises:
        ValueError: the split is unknown.
        MissingPackageError: scikit-learn is not installed.
    """
    require_packages("the digits data set", "scikit-learn")
    from sklearn.datasets import load_digits

    source = load_digits()
    labels = torch.from_numpy(source.target).long()
    small = torch.from_numpy(source.images)[:, None] / 16
    gray = F.interpolate(small, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1)[:, 0]
    jitter = np.random.Generator(np.random.PCG64(0)).uniform(-HUE_JITTER, HUE_JITTER, len(labels))
    rgb = _hsv_to_rgb(labels / CLASSES + torch.from_numpy(jitter), gray)
    images = (255 * rgb).round().to(torch.uint8)

    rank = F.one_hot(labels, CLASSES).cumsum(0).gather(1, labels[:, None])[:, 0] - 1
    mask = split_mask(split, rank)
    return images[mask], labels[mask]


def _hsv_to_rgb(hue: Tensor, value: Tensor) -> Tensor:
    """Convert HSV with saturation `SATURATION` to RGB (N, 3, H, W): hue (N,) of period 1, value (N, H, W) in [0, 1]."""
    turns = (hue[:, None] + torch.tensor([0.0, 2 / 3, 1 / 3], dtype=hue.dtype)) % 1
    pure = ((6 * turns - 3).abs() - 1).clamp(0, 1)
    return value[:, None] * (1 - SATURATION * (1 - pure))[:, :, None, None]
