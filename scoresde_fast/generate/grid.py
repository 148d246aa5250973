# SPDX-License-Identifier: Apache-2.0
"""The first images of a set side by side: what people look at first."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt

import numpy as np

from scoresde_fast.data.png import Pixels

MOST = 64
WIDTH = 800  # px that small images are enlarged towards
LARGEST_CELL = 256  # px: few small images are not blown up beyond recognition
LARGEST_WIDTH = 4096  # px: of large images fewer are shown
GAP = 4  # px between cells and around them
BACKGROUND = 24  # dark enough to let images shine, light enough to part black ones


def shown(count: int, width: int) -> tuple[int, int]:
    """(images, columns) of the grid for ``count`` images of ``width`` px: as square as can be, at most 64."""
    columns = min(ceil(sqrt(min(count, MOST))), max(1, LARGEST_WIDTH // width))
    return min(count, columns * columns), columns


def compose(images: Sequence[Pixels], columns: int | None = None) -> Pixels:
    """Images (H, W, C) uint8 -> one (H', W', C) uint8, row by row, each enlarged by the same whole factor.

    With ``columns`` all of them, so many in a row; else as many and in such rows as `shown` says.
    """
    height, width, channels = images[0].shape
    count, columns = shown(len(images), width) if columns is None else (len(images), columns)
    rows = ceil(count / columns)
    factor = max(1, min(WIDTH // (columns * width), LARGEST_CELL // width))
    step_y, step_x = height * factor + GAP, width * factor + GAP
    grid = np.full((rows * step_y + GAP, columns * step_x + GAP, channels), BACKGROUND, dtype=np.uint8)
    for i, image in enumerate(images[:count]):
        y, x = GAP + i // columns * step_y, GAP + i % columns * step_x
        cell = image.repeat(factor, axis=0).repeat(factor, axis=1)
        grid[y : y + height * factor, x : x + width * factor] = cell
    return grid
