# SPDX-License-Identifier: Apache-2.0
"""Division of an image among the programs of the GroupNorm kernels, and memory for images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import triton

ROW_BYTES = 64  # contiguous bytes for efficient access to channels_last memory
MAX_SLAB_BYTES = 65536  # capacity of a program's registers
MIN_SLAB, PIECE = 4096, 8192  # elements of the smallest slab worth a program, and of a piece
MAX_WARPS = 8  # for the largest slabs


@dataclass(frozen=True)
class Plan:
    """Division of an image into slabs of ``slab`` channels and, if these are too large, of slabs into pieces.

    ``images`` is the number of images in a program's registers: 2 with a residual, else 1, and 0 for kernels that
    always work on pieces.
    """

    channels: int
    pixels: int
    groups: int
    itemsize: int
    channels_last: bool
    images: int

    @property
    def group(self) -> int:
        """Channels per group."""
        return self.channels // self.groups

    @cached_property
    def slab(self) -> int:
        """Channels per program: whole groups that fit registers, if possible with long rows and enough work."""
        counts = [count for count in range(1, self.groups + 1) if self.groups % count == 0]
        sizes = [count * self.group for count in counts]
        if self.group & (self.group - 1):
            # If the group size is not a power of two, groups are summed through a square matrix.
            sizes = [size for size in sizes if size <= max(64, self.group)]
        row = ROW_BYTES // self.itemsize if self.channels_last else 1
        large_enough = [size for size in sizes if size >= row and size * self.pixels >= MIN_SLAB]
        smallest = large_enough[0] if large_enough else sizes[-1]
        fitting = [size for size in sizes if size <= smallest and self.fits(size)]
        # A row of half the bytes is faster than reading everything twice; a shorter row is not.
        return next((size for size in reversed(fitting) if 2 * size >= row), smallest)

    def fits(self, slab: int) -> bool:
        """Return whether a slab of this many channels of every image fits into the registers."""
        elements = triton.next_power_of_2(slab) * triton.next_power_of_2(self.pixels)
        return elements * self.itemsize * self.images <= MAX_SLAB_BYTES

    @cached_property
    def image(self) -> dict[str, Any]:
        """Constants that all kernels share."""
        return {
            "PIXELS": self.pixels,
            "CHANNELS": self.channels,
            "GROUP": self.group,
            "SLAB": self.slab,
            "PIXEL_STRIDE": self.channels if self.channels_last else 1,
            "CHANNEL_STRIDE": 1 if self.channels_last else self.pixels,
            "BLOCK_C": triton.next_power_of_2(self.slab),
        }

    def tiles(self, pixels: int) -> tuple[dict[str, int], int]:
        """Return the constants ROWS and TILES for a slab of ``pixels``, and the warps: 8 tile elements per thread."""
        pixels, block = triton.next_power_of_2(pixels), triton.next_power_of_2(self.slab)
        elements = pixels * block
        warps = min(MAX_WARPS, max(1, elements // 2048))
        tiles = min(pixels, max(1, elements // (warps * 256)))
        return {"ROWS": pixels // tiles, "TILES": tiles}, warps

    def piece(self, elements: int) -> int:
        """Return the number of pixels of a piece with about ``elements`` elements."""
        return max(1, min(triton.next_power_of_2(self.pixels), elements // triton.next_power_of_2(self.slab)))


plan_of = cache(Plan)
"""`Plan`, cached because computing it takes longer than a launch."""


def empty_image(like: Any, channels_last: bool) -> Any:
    """Return an uninitialised image with the shape and dtype of ``like``."""
    if not channels_last:
        return like.new_empty(like.shape)
    _, channels, height, width = like.shape
    return like.new_empty_strided(like.shape, (channels * height * width, 1, width * channels, channels))
