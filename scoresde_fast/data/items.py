# SPDX-License-Identifier: Apache-2.0
"""What all sources of images have in common: one image after the other, checked and gathered into batches."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.data.encoded import resized
from scoresde_fast.data.png import Pixels

DAMAGE = (BadZipFile, EOFError, OSError, RuntimeError, UnicodeError, tarfile.TarError, zlib.error)
"""What the readers of archives raise where the bytes are not what they should be; zipfile a RuntimeError also where a
password or a rare compression is in use."""


class Item(NamedTuple):
    """One image, (H, W, C) uint8, as a reader of a format gives it."""

    name: str
    pixels: Pixels
    label: int | None = None


class ImageBatch(NamedTuple):
    """Images (B, C, H, W) uint8, the name of each, and the labels (B,) int64, None where the source has none."""

    images: Tensor
    names: list[str]
    labels: Tensor | None


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Damaged files that are read in the block become a ValueError of one sentence."""
    try:
        yield
    except DAMAGE as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # a file is not there, or may not be read
        reason = str(error) or type(error).__name__
        raise ValueError(f"{source} is damaged, cut short, or not what its name says ({reason})") from error


class Images:
    """An image source of ``count`` images: ``items`` begins to read them anew at each call.

    ``item`` reads one of them by its number, in formats where that costs no more than its own bytes; else it is None.
    With ``size`` each image is cropped at its centre to a square and resized to ``size`` x ``size``.  The first image
    is read at once where its ``shape`` is not known.

    Attributes:
        shape: (C, H, W) of each.
        by_number: whether `image` can be asked for.

    Raises:
        ValueError: there are no images, or the first one cannot be read.
    """

    def __init__(
        self,
        source: str,
        count: int,
        items: Callable[[], Generator[Item, None, None]],
        size: int | None = None,
        *,
        shape: tuple[int, int, int] | None = None,
        item: Callable[[int], Item] | None = None,
    ) -> None:
        if not count:
            raise ValueError(f"{source} has no images")
        self.source, self.count = source, count
        self._items, self._item, self._size = items, item, size
        self.by_number = item is not None
        self._first: Item | None = None
        self.shape = self._first_shape() if shape is None else (shape[0], size or shape[1], size or shape[2])

    def batches(self, size: int) -> Iterator[ImageBatch]:
        """All images, ``size`` at a time, in the order of the source.

        Raises:
            ValueError: an image is damaged, or differs from the first one in size, in colours, or in having a label.
        """
        with closing(self._read()) as items:
            while batch := list(islice(items, size)):
                images = np.stack([item.pixels for item in batch]).transpose(0, 3, 1, 2)
                labels = [item.label for item in batch if item.label is not None]
                yield ImageBatch(
                    torch.from_numpy(np.ascontiguousarray(images)),
                    [item.name for item in batch],
                    torch.tensor(labels) if labels else None,
                )

    def image(self, number: int) -> Pixels:
        """One image (H, W, C) uint8, counted from 0 in the order of the source; raises ValueError as `batches` does."""
        if self._item is None:
            raise ValueError(f"the images of {self.source} can be read in their order alone; give a folder or a .npy")
        with reading(self.source):
            return self._fitted(self._item(number)).pixels

    def _first_shape(self) -> tuple[int, int, int]:
        with closing(self._read()) as items:
            height, width, channels = next(items).pixels.shape
        return channels, height, width

    def _read(self) -> Generator[Item, None, None]:
        with reading(self.source), closing(self._items()) as items:
            yield from map(self._fitted, items)

    def _fitted(self, item: Item) -> Item:
        """The image cropped and resized as was asked, and as it must be beside the first one."""
        if self._size is not None:
            item = item._replace(pixels=resized(item.pixels, self._size))
        first = self._first = self._first or item
        if item.pixels.shape != first.pixels.shape:
            sizes = [size_text((each.pixels.shape[2], *each.pixels.shape[:2])) for each in (first, item)]
            raise ValueError(
                f"images of {self.source} have different sizes: {first.name} is {sizes[0]}, {item.name} is "
                f"{sizes[1]}; give images of one size and of one number of channels"
                + ("" if self._size else f", or {self.source}@SIZE to crop and resize them")
            )
        if (item.label is None) != (first.label is None):
            having, lacking = (first, item) if item.label is None else (item, first)
            raise ValueError(
                f"{having.name} of {self.source} has a label and {lacking.name} has none; give one to all or to none"
            )
        return item


def size_text(shape: Sequence[int]) -> str:
    """(C, H, W) as an error says it: ``32x32 of 3 channels``."""
    channels, height, width = shape
    return f"{height}x{width} of {channels} channel{'s' if channels > 1 else ''}"
