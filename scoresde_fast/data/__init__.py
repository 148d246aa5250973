# SPDX-License-Identifier: Apache-2.0
"""Readers for images and points, and the built-in data sets by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from scoresde_fast.data.digits import digits
from scoresde_fast.data.toy import diamond, swiss_roll
from scoresde_fast.errors import unknown_message

DATASETS: dict[str, Callable[[str], tuple[Tensor, Tensor]]] = {
    "diamond": diamond,
    "digits": digits,
    "swiss_roll": swiss_roll,
}
"""Built-in data sets: functions of a split that return the same as `load_dataset`."""
POINT_SETS = frozenset({"diamond", "swiss_roll"})
"""Data sets of points; the others are of images."""


def load_dataset(name: str, split: str = "all") -> tuple[Tensor, Tensor]:
    """Return images (N, 3, H, W) uint8 or points (N, 2, 1, 1) float32, and labels (N,) int64.

    Raises:
        ValueError: the data set or the split is unknown.
    """
    if name not in DATASETS:
        raise ValueError(unknown_message("data set", name, DATASETS))
    return DATASETS[name](split)


__all__ = ["DATASETS", "POINT_SETS", "diamond", "digits", "load_dataset", "swiss_roll"]
