# SPDX-License-Identifier: Apache-2.0
"""Conversion of images to 8-bit pixels, and pictures of many images: grids, sheets and point plots."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from math import ceil, sqrt
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from scoresde_fast.data.codecs import Pixels, encode_png
from scoresde_fast.errors import require_packages
from scoresde_fast.files import make_folder, replacing

ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {"floor": Tensor.floor, "round": Tensor.round}
"""Rounding of 255 x to an integer: ``floor`` truncates, as in the official code; ``round`` takes the nearest."""

GRID_IMAGES = 64
GRID_WIDTH = 800  # px; small images are enlarged so that a grid is about this wide
MAX_CELL = 256  # px; limit for enlarged images
MAX_WIDTH = 4096  # px; a grid or sheet of large images shows fewer of them
GAP = 4  # px between cells and around them
BACKGROUND = 24  # gray value; dark, but distinct from black images

SHEET_ROWS = 16
MIN_SHEET_COLUMNS = 6
"""Images are enlarged as if the sheet had at least 6 columns; otherwise a sheet of few columns would be very tall."""
STRIP = 14  # px; height of a row's label
INK = 200  # gray value of the label
UNKNOWN = (0.45, 0.55)
"""The two grays of the checkerboard that marks unknown pixels."""

PLOT_INCHES, PLOT_DPI = 5, 100


def to_uint8(images: Tensor, rounding: str) -> Tensor:
    """Return images (B, C, H, W) in [0, 1] as (B, H, W, C) uint8 on their device: ``clip(rounding(255 x), 0, 255)``."""
    values = ROUNDINGS[rounding](images.detach().float() * 255).clamp(0, 255).byte()
    return values.permute(0, 2, 3, 1).contiguous()


def to_pixels(images: Tensor, rounding: str) -> Pixels:
    """Return the result of `to_uint8` as a NumPy array."""
    pixels: Pixels = to_uint8(images, rounding).cpu().numpy()
    return pixels


def write_png(path: Path, pixels: Pixels) -> int:
    """Write (H, W, 1 or 3) uint8 as a PNG, creating its folder, and return its size in bytes.

    Raises:
        OSError: the file cannot be written.
    """
    png = encode_png(pixels)
    make_folder(path.parent)
    with replacing(path) as file:
        file.write(png)
    return len(png)


def grid_layout(count: int, width: int) -> tuple[int, int]:
    """Return how many of ``count`` images a nearly square grid shows, at most 64, and its number of columns."""
    columns = min(ceil(sqrt(min(count, GRID_IMAGES))), max(1, MAX_WIDTH // width))
    return min(count, columns * columns), columns


def compose(images: Sequence[Pixels], columns: int | None = None) -> Pixels:
    """Return a grid (H', W', C) uint8 of images (H, W, C) uint8, row by row, enlarged by the same integer factor.

    Without ``columns``, `grid_layout` chooses the number of columns, and how many images are shown.
    """
    height, width, channels = images[0].shape
    count, columns = grid_layout(len(images), width) if columns is None else (len(images), columns)
    rows = ceil(count / columns)
    factor = max(1, min(GRID_WIDTH // (columns * width), MAX_CELL // width))
    step_y, step_x = height * factor + GAP, width * factor + GAP
    grid = np.full((rows * step_y + GAP, columns * step_x + GAP, channels), BACKGROUND, dtype=np.uint8)
    for i, image in enumerate(images[:count]):
        y, x = GAP + i // columns * step_y, GAP + i % columns * step_x
        cell = image.repeat(factor, axis=0).repeat(factor, axis=1)
        grid[y : y + height * factor, x : x + width * factor] = cell
    return grid


def sheet(
    names: Sequence[str], pictures: Mapping[str, Sequence[Pixels]], samples: Sequence[Sequence[Pixels]]
) -> Pixels:
    """Return a picture (H', W', 3) uint8 with a labelled row for each of the first 16 images.

    Args:
        names: names of the images.
        pictures: title -> a picture (H, W, 1 or 3) uint8 of each image, shown before its samples.
        samples: the samples (H, W, 1 or 3) uint8 of each image, of which as many are shown as fit.
    """
    width = samples[0][0].shape[1]
    max_samples = max(1, MAX_WIDTH // width - len(pictures))
    titles = f"{', '.join(pictures)}, {'samples' if len(samples[0]) > 1 else 'sample'}"
    rows: list[Pixels] = []
    for index, name in enumerate(names[:SHEET_ROWS]):
        cells = [*(images[index] for images in pictures.values()), *samples[index][:max_samples]]
        columns = max(MIN_SHEET_COLUMNS, len(cells))
        row = compose([np.broadcast_to(cell, (*cell.shape[:2], 3)) for cell in cells], columns=columns)
        row = row[:, : GAP + len(cells) * ((row.shape[1] - GAP) // columns)]  # without empty cells
        rows += [_label(f"{name}: {titles}", row.shape[1]), row]
    return np.concatenate(rows)


def checkered(images: Tensor, known: Tensor) -> Tensor:
    """Return images (N, C, H, W) in [0, 1] with a checkerboard where ``known``, broadcast to their shape, is False."""
    height, width = images.shape[-2:]
    parity = (torch.arange(height, device="cpu")[:, None] + torch.arange(width, device="cpu")) % 2
    return torch.where(known, images, torch.tensor(UNKNOWN, dtype=torch.float32, device="cpu")[parity])


def point_plot(points: Tensor) -> bytes:
    """Return a PNG that plots the first two coordinates of points (N, C, 1, 1).

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    require_packages("a plot of points", "matplotlib")
    from matplotlib.figure import Figure

    x, y = points.flatten(1)[:, :2].cpu().numpy().T
    figure = Figure(figsize=(PLOT_INCHES, PLOT_INCHES), layout="constrained")
    axes = figure.subplots()
    axes.scatter(x, y, s=1, linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    png = io.BytesIO()
    figure.savefig(png, dpi=PLOT_DPI)
    return png.getvalue()


def _label(text: str, width: int) -> Pixels:
    """Return a strip (STRIP, width, 3) with as much of ``text`` as fits."""
    strip = Image.new("RGB", (width, STRIP), (BACKGROUND,) * 3)
    # All fonts of Pillow have the ASCII characters.
    ImageDraw.Draw(strip).text((GAP, 1), text.encode("ascii", "replace").decode(), fill=(INK,) * 3)
    return np.asarray(strip)
