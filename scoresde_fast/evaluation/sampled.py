# SPDX-License-Identifier: Apache-2.0
"""Images straight from a sampler, as a source like any other: drawn when they are read, and never on the disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor

from scoresde_fast.data.items import ImageBatch
from scoresde_fast.errors import unknown
from scoresde_fast.generate.pixels import ROUNDINGS, to_uint8


class Draws(Protocol):
    """What draws the images; ``scoresde_fast.Sampler`` is one."""

    def describe(self) -> dict[str, Any]:
        """Everything that decides the pixels, for JSON."""

    def stream(self, seeds: Sequence[int], batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
        """(seeds, images (B, C, H, W) in [0, 1]), batch by batch."""


class SampledImages:
    """The image of each seed, in their order, with the 8 bits that ``scoresde-fast sample`` would write.

    Args:
        sampler: draws them.
        shape: (C, H, W) of each.
        seeds: which.
        rounding: "floor" of 255 x, or "round" to the nearest.

    Raises:
        ValueError: the rounding is unknown.
    """

    def __init__(self, sampler: Draws, shape: tuple[int, int, int], seeds: Sequence[int], rounding: str = "floor"):
        if rounding not in ROUNDINGS:
            raise ValueError(unknown("rounding", rounding, ROUNDINGS))
        self.sampler, self.shape, self.seeds, self.rounding = sampler, shape, seeds, rounding

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.seeds)

    def batches(self, size: int) -> Iterator[ImageBatch]:
        """All images, ``size`` at a time."""
        return self.every(size, 0, 1)

    def every(self, size: int, first: int, step: int) -> Iterator[ImageBatch]:
        """Of the same batches the one of number ``first`` and every ``step``-th after it; no others are drawn."""
        for start in range(first * size, len(self.seeds), step * size):
            for seeds, images in self.sampler.stream(self.seeds[start : start + size], size):
                pixels = to_uint8(images, self.rounding).permute(0, 3, 1, 2).contiguous().cpu()
                yield ImageBatch(pixels, [str(seed) for seed in seeds], None)
