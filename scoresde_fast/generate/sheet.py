# SPDX-License-Identifier: Apache-2.0
"""A sheet: a row for each image, with what was given of it and the samples that belong to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from scoresde_fast.data.png import Pixels
from scoresde_fast.generate.grid import BACKGROUND, GAP, LARGEST_WIDTH, compose

ROWS = 16
"""The first images have one, of many."""
COLUMNS = 6
"""Small images are enlarged as if there were so many in a row at least, or few would make a sheet of many screens."""
STRIP = 14  # px: what a row begins with, its label
INK = 200
UNKNOWN = (0.45, 0.55)
"""The two fields of a chequer, which no flat part of an image is taken for."""


def sheet(names: Sequence[str], given: Mapping[str, Sequence[Pixels]], samples: Sequence[Sequence[Pixels]]) -> Pixels:
    """The picture (H', W', 3) uint8.

    Args:
        names: of the images.
        given: what was given of each image, by its title: (H, W, 1 or 3) uint8.
        samples: of each image, alike; as many are shown as there is room for.
    """
    width = samples[0][0].shape[1]
    most = max(1, LARGEST_WIDTH // width - len(given))
    titles = f"{', '.join(given)}, {'samples' if len(samples[0]) > 1 else 'sample'}"
    rows: list[Pixels] = []
    for place, name in enumerate(names[:ROWS]):
        cells = [*(pictures[place] for pictures in given.values()), *samples[place][:most]]
        columns = max(COLUMNS, len(cells))
        row = compose([np.broadcast_to(cell, (*cell.shape[:2], 3)) for cell in cells], columns=columns)
        row = row[:, : GAP + len(cells) * ((row.shape[1] - GAP) // columns)]
        rows += [_label(f"{name}: {titles}", row.shape[1]), row]
    return np.concatenate(rows)


def chequered(images: Tensor, known: Tensor) -> Tensor:
    """Images (N, C, H, W) in [0, 1] with a chequer where ``known``, of any shape that fits theirs, is False."""
    height, width = images.shape[-2:]
    odd = (torch.arange(height)[:, None] + torch.arange(width)) % 2
    return torch.where(known, images, torch.tensor(UNKNOWN)[odd])


def _label(text: str, width: int) -> Pixels:
    """A strip (STRIP, width, 3) with ``text`` as far as it fits."""
    strip = Image.new("RGB", (width, STRIP), (BACKGROUND,) * 3)
    # The letters that every font of Pillow's has.
    ImageDraw.Draw(strip).text((GAP, 1), text.encode("ascii", "replace").decode(), fill=(INK,) * 3)
    return np.asarray(strip)
