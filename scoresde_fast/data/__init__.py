# SPDX-License-Identifier: Apache-2.0
"""Data sets by name: each is a function from a split to uint8 images (N, 3, H, W) and int64 labels (N,)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from scoresde_fast.data.digits import digits
from scoresde_fast.errors import unknown

DATASETS: dict[str, Callable[[str], tuple[Tensor, Tensor]]] = {"digits": digits}


def load_dataset(name: str, split: str = "all") -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W) uint8 and labels (N,) int64 of the data set ``name``.

    Raises ValueError when the data set or the split is unknown.
    """
    if name not in DATASETS:
        raise ValueError(unknown("data set", name, DATASETS))
    return DATASETS[name](split)


__all__ = ["DATASETS", "digits", "load_dataset"]
