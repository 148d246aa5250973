# SPDX-License-Identifier: Apache-2.0
"""`Images`, the source that every reader of a format returns: images checked one by one, and gathered into batches."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scoresde_fast.data.codecs import Pixels, decode_image

DAMAGE = (BadZipFile, EOFError, OSError, RuntimeError, UnicodeError, tarfile.TarError, zlib.error)
"""The errors of reading a damaged archive; zipfile raises RuntimeError for a password or a rare compression too."""

READERS = 8
"""Threads that read images by number."""


class Item(NamedTuple):
    """An image (H, W, C) uint8 with its name and, if the source has labels, its label."""

    name: str
    pixels: Pixels
    label: int | None = None


class ImageBatch(NamedTuple):
    """Images (B, C, H, W) uint8, their names, and labels (B,) int64, None where the source has no labels."""

    images: Tensor
    names: list[str]
    labels: Tensor | None


class Images:
    """A source of ``count`` images, which can be read any number of times, always in the same order.

    Args:
        source: the name for messages.
        count: number of images.
        items: starts a new reading of all images.
        size: crop each image to its central square, and resize it to ``size`` x ``size``.
        shape: (C, H, W) of each, where known; else the first image is read at once.
        item: reads one image by its number, in formats where that costs no more than its own bytes.

    Attributes:
        source, count: as above.
        shape: (C, H, W) of each image.
        by_number: whether images can be indexed by their numbers.

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
        self._readers = ThreadPoolExecutor(READERS)
        self._first: Item | None = None
        if shape is None:
            with closing(self._read()) as first:
                height, width, channels = next(first).pixels.shape
            shape = channels, height, width
        self.shape = (shape[0], size or shape[1], size or shape[2])

    def batches(self, size: int) -> Iterator[ImageBatch]:
        """Yield all images, ``size`` at a time, in the order of the source; the last batch may be smaller.

        Raises:
            ValueError: an image is damaged, or differs from the first one in size, in colours, or in having a label.
        """
        with closing(self._read()) as items:
            while batch := list(islice(items, size)):
                labels = [item.label for item in batch if item.label is not None]
                yield ImageBatch(
                    _stacked([item.pixels for item in batch]),
                    [item.name for item in batch],
                    torch.tensor(labels) if labels else None,
                )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """Return the images of ``numbers`` (B,), counted from 0, as a tensor (B, C, H, W) uint8 would.

        Raises:
            ValueError: as `batches`; or images of this format cannot be read by number.
        """
        return _stacked(list(self._readers.map(self._image, numbers.tolist())))

    def _image(self, number: int) -> Pixels:
        if self._item is None:
            raise ValueError(f"the images of {self.source} can be read in their order alone; give a folder or a .npy")
        with reading(self.source):
            return self._checked(self._item(number)).pixels

    def _read(self) -> Generator[Item, None, None]:
        with reading(self.source), closing(self._items()) as items:
            yield from map(self._checked, items)

    def _checked(self, item: Item) -> Item:
        """Return the item, resized if asked; raise ValueError where it differs from the first one."""
        if self._size is not None:
            item = item._replace(pixels=_resized(item.pixels, self._size))
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


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turn the errors of damaged files in the block into a ValueError that names ``source``."""
    try:
        yield
    except DAMAGE as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # a file is missing, or may not be read
        reason = str(error) or type(error).__name__
        raise ValueError(f"{source} is damaged, cut short, or not what its name says ({reason})") from error


def decode_item(source: str, name: str, encoded: bytes, label: int | None = None) -> Item:
    """Decode the image file ``name`` of ``source``; raise ValueError that names it where that fails."""
    try:
        return Item(name, decode_image(encoded), label)
    except ValueError as error:
        raise ValueError(f"{name} of {source} {error}") from error


def _stacked(images: list[Pixels]) -> Tensor:
    """Return images (H, W, C) as one tensor (B, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))


def size_text(shape: Sequence[int]) -> str:
    """Return (C, H, W) as messages have it: ``32x32 of 3 channels``."""
    channels, height, width = shape
    return f"{height}x{width} of {channels} channel{'s' if channels > 1 else ''}"


def _resized(pixels: Pixels, size: int) -> Pixels:
    """Resize the central square of (H, W, 1 or 3) to ``size`` x ``size`` by Pillow's antialiased Lanczos filter."""
    height, width, channels = pixels.shape
    if channels not in (1, 3):
        raise ValueError(f"images of {channels} channels cannot be resized; those of 1 (gray) or 3 (RGB) can")
    if height == width == size:
        return pixels
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    image = Image.fromarray(square[..., 0] if channels == 1 else square)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)).reshape(size, size, channels)
