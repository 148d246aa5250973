# SPDX-License-Identifier: Apache-2.0
"""Strict sampling: every network evaluation has one batch size, and every seed one place in its batch.

Which algorithm a library takes, and in which order it adds, depends on the shape of a batch, and may depend on where in
it an image lies.  Both are fixed here; what the other places hold never enters an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

PIXELS = {"cpu": 2**13, "cuda": 2**17}
"""Pixels of a chunk: enough to keep a GPU busy, or one core of a CPU, where a quarter costs half as much time again."""
MOST_IMAGES = 128
"""Images of a chunk, however small they are."""


def chunk_size(image_shape: Sequence[int], device: torch.device) -> int:
    """Images in a chunk, a function of the image's size and the device's type alone."""
    pixels = math.prod(image_shape[1:])
    return min(MOST_IMAGES, max(1, PIXELS.get(device.type, PIXELS["cuda"]) // pixels))


def chunks(seeds: Sequence[int], size: int) -> list[list[int]]:
    """Chunks of ``size`` positions in ``seeds`` that together hold every seed once, seed s at place s mod ``size``.

    Empty places take the first position again; those results are discarded.
    """
    first: dict[int, int] = {}
    for position, seed in enumerate(seeds):
        first.setdefault(seed, position)
    at_place: list[list[int]] = [[] for _ in range(size)]
    for seed, position in first.items():
        at_place[seed % size].append(position)
    made = max(map(len, at_place))
    return [[column[index] if index < len(column) else 0 for column in at_place] for index in range(made)]
