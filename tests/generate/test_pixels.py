# SPDX-License-Identifier: Apache-2.0
"""Rounding to 8 bits, grids and sheets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scoresde_fast.generate import pixels
from scoresde_fast.generate.pixels import BACKGROUND, GAP, STRIP, UNKNOWN, compose, grid_layout, sheet, to_pixels

pytestmark = pytest.mark.same_everywhere


@pytest.mark.parametrize(
    ("rounding", "values"), [("floor", [0, 0, 127, 254, 255, 255, 0]), ("round", [0, 1, 128, 255, 255, 255, 0])]
)
def test_rounding(rounding: str, values: list[int]) -> None:
    """Floor truncates 255 x as in the official code, round takes the nearest, and both clip."""
    image = torch.tensor([0.0, 0.9 / 255, 127.8 / 255, 254.9 / 255, 1.0, 1.5, -0.5])
    assert to_pixels(image.reshape(1, 1, 1, -1), rounding).ravel().tolist() == values


@pytest.mark.parametrize(
    ("count", "width", "result"), [(1, 16, (1, 1)), (6, 16, (6, 3)), (500, 32, (64, 8)), (64, 1024, (16, 4))]
)
def test_grid_layout(count: int, width: int, result: tuple[int, int]) -> None:
    """A grid is nearly square and shows up to 64 images, but fewer if they are large."""
    assert grid_layout(count, width) == result


@pytest.mark.parametrize(("count", "size", "width"), [(64, 16, 804), (64, 32, 804), (1, 16, 264), (9, 300, 916)])
def test_grid_size(count: int, size: int, width: int) -> None:
    """Small images are enlarged by an integer factor to a grid about 800 px wide."""
    assert compose([np.zeros((size, size, 3), np.uint8)] * count).shape[1] == width


def test_grid_cells() -> None:
    """The images are in the cells row by row, each pixel enlarged to a block."""
    grid = compose([np.full((128, 128, 1), i, np.uint8) for i in range(3)])
    near, far = slice(GAP, GAP + 256), slice(256 + 2 * GAP, 2 * (256 + GAP))
    for i, (rows, columns) in enumerate([(near, near), (near, far), (far, near)]):
        assert (grid[rows, columns] == i).all()
    assert grid[0, 0, 0] == grid[-GAP - 1, -GAP - 1, 0] == BACKGROUND


def test_sheet() -> None:
    """A sheet shows the first 16 images and the samples that fit, in RGB; unknown pixels are a checkerboard."""
    gray = np.arange(64 * 512, dtype=np.uint32).astype(np.uint8).reshape(64, 512, 1)
    names = [f"é{i}" for i in range(20)]  # not ASCII
    picture = sheet(names, {"gray": [gray] * 20}, [[gray] * 40] * 20)
    assert picture.shape == (16 * (STRIP + 64 + 8), 8 * (512 + 4) + 4, 3)
    assert np.array_equal(picture[STRIP + 4 : STRIP + 68, 4:516], gray.repeat(3, axis=2))
    known = torch.tensor([[True, False], [False, False]])
    marked = pixels.checkered(torch.ones(1, 3, 2, 2), known)
    assert marked[0, :, 0, 0].eq(1).all() and marked[:, :, ~known].unique().tolist() == pytest.approx(UNKNOWN)
