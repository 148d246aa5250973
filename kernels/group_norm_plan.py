# SPDX-License-Identifier: Apache-2.0
"""How the GroupNorm kernels divide an image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import triton

# Bytes of a row of a slab that channels_last memory moves well, and of a slab that registers hold; elements of a slab
# that is worth a program, and of a piece; warps of the largest slabs.
ROW_BYTES, MAX_SLAB_BYTES, MIN_SLAB, PIECE, MAX_WARPS = 64, 65536, 4096, 8192, 8


@dataclass(frozen=True)
class Plan:
    """How an image is divided: into slabs of ``slab`` channels and, where these are too large, into pieces of them.

    ``images`` is how many of them a program holds in registers: 2 for a join, 0 where it works in pieces anyway.
    """

    channels: int
    pixels: int
    groups: int
    itemsize: int
    channels_last: bool
    images: int

    @property
    def group(self) -> int:
        """Channels a group."""
        return self.channels // self.groups

    @cached_property
    def slab(self) -> int:
        """Channels a program: whole groups, as many as make good rows and enough work, if that many fit."""
        counts = [count for count in range(1, self.groups + 1) if self.groups % count == 0]
        sizes = [count * self.group for count in counts]
        if self.group & (self.group - 1):
            # Groups that are no power of two are summed through a square matrix.
            sizes = [size for size in sizes if size <= max(64, self.group)]
        row = ROW_BYTES // self.itemsize if self.channels_last else 1
        good = [size for size in sizes if size >= row and size * self.pixels >= MIN_SLAB]
        smallest = next(iter(good), sizes[-1])
        fitting = [size for size in sizes if size <= smallest and self.fits(size)]
        # A row of half the bytes is better than a second look; a shorter one is not.
        return next((size for size in reversed(fitting) if 2 * size >= row), smallest)

    def fits(self, slab: int) -> bool:
        """Whether registers hold a slab of this many channels of every image."""
        elements = triton.next_power_of_2(slab) * triton.next_power_of_2(self.pixels)
        return elements * self.itemsize * self.images <= MAX_SLAB_BYTES

    @cached_property
    def image(self) -> dict[str, Any]:
        """The constants that every kernel has."""
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
        """(the constants ROWS and TILES of that many pixels of a slab, warps): a thread has 8 elements of each tile."""
        pixels, block = triton.next_power_of_2(pixels), triton.next_power_of_2(self.slab)
        elements = pixels * block
        warps = min(MAX_WARPS, max(1, elements // 2048))
        tiles = min(pixels, max(1, elements // (warps * 256)))
        return {"ROWS": pixels // tiles, "TILES": tiles}, warps

    def piece(self, elements: int) -> int:
        """Pixels of a slab that are about so many elements."""
        return max(1, min(triton.next_power_of_2(self.pixels), elements // triton.next_power_of_2(self.slab)))


plan_of = cache(Plan)
"""The plan of an image, cached: computing it takes longer than a launch."""


def empty_image(like: Any, channels_last: bool) -> Any:
    """Memory of the shape and dtype of ``like``."""
    if not channels_last:
        return like.new_empty(like.shape)
    _, channels, height, width = like.shape
    return like.new_empty_strided(like.shape, (channels * height * width, 1, width * channels, channels))


_float32: dict[type, Any] = {}
"""float32 as the library of a type of tensors has it."""


def empty_float32(like: Any, shape: tuple[int, ...]) -> Any:
    """Memory of float32 where ``like`` is."""
    dtype = _float32.get(type(like)) or _float32.setdefault(type(like), like.new_empty(0).float().dtype)
    return like.new_empty(shape, dtype=dtype)
