# SPDX-License-Identifier: Apache-2.0
"""`Images`: the image source that every format reader returns; it validates each image and batches them."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from typing import NamedTuple, NoReturn
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.data.codecs import ModeError, Pixels, decode_image
from scoresde_fast.data.conversion import NO_CONVERSION, Conversion, request
from scoresde_fast.data.file_names import PassedOver
from scoresde_fast.errors import require_integer

CORRUPT_FILE_ERRORS = (BadZipFile, EOFError, OSError, RuntimeError, UnicodeError, tarfile.TarError, zlib.error)
"""Errors of reading a corrupt archive; zipfile also raises RuntimeError for a password or an unknown compression."""
MODES = {1: "gray", 3: "RGB", 4: "RGBA"}
"""The numbers of channels that can be converted to RGB, with their names."""
READER_THREADS = 8
"""Threads for random access."""


class Item(NamedTuple):
    """An image (H, W, C) uint8, its name and, if the source has labels, its label."""

    name: str
    pixels: Pixels
    label: int | None = None


class ImageBatch(NamedTuple):
    """Images (B, C, H, W) uint8, their names, and labels (B,) int64, or None if the source has no labels."""

    images: Tensor
    names: list[str]
    labels: Tensor | None


class Images:
    """A source of ``count`` images that can be read any number of times, always in the same order.

    Args:
        source: the name for messages.
        count: number of images.
        items: returns a new iterator over all images.
        conversion: conversion of each image.
        shape: (C, H, W) of each image before the conversion, or None to read the first image.
        item: random access by index, for formats that support it without scanning the file.
        passed_over: the files that are no images, of which a warning tells.

    Attributes:
        source, count: as above.
        shape: (C, H, W) of each image.
        random_access: whether ``images[indices]`` works.

    Raises:
        ValueError: there are no images, or the first one cannot be read.
    """

    def __init__(
        self,
        source: str,
        count: int,
        items: Callable[[], Generator[Item, None, None]],
        conversion: Conversion = NO_CONVERSION,
        *,
        shape: tuple[int, int, int] | None = None,
        item: Callable[[int], Item] | None = None,
        passed_over: PassedOver | None = None,
    ) -> None:
        if not count:
            raise ValueError(f"{source} has no images" + (f": {passed_over}" if str(passed_over or "") else ""))
        if passed_over is not None:
            passed_over.warn(source)
        self.source, self.count = source, count
        self._items, self._item, self._conversion = items, item, conversion
        self.random_access = item is not None
        self._threads = ThreadPoolExecutor(READER_THREADS)  # starts a thread when there is work for it
        self._first: Item | None = None
        if shape is None:
            with closing(self._read()) as first:
                height, width, channels = next(first).pixels.shape
            self.shape = channels, height, width
        else:
            channels, height, width = shape
            side = conversion.size
            self.shape = (3 if conversion.rgb else channels, side or height, side or width)

    def batches(self, size: int) -> Iterator[ImageBatch]:
        """Yield all images, ``size`` at a time, in the order of the source; the last batch may be smaller.

        Raises:
            ValueError: an image is corrupt or differs from the first in size or channels, or only one of them has a
                label.
        """
        require_integer("the batch size", size, 1)
        with closing(self._read()) as items:
            while batch := list(islice(items, size)):
                labels = [item.label for item in batch if item.label is not None]
                yield ImageBatch(
                    _stack([item.pixels for item in batch]),
                    [item.name for item in batch],
                    torch.tensor(labels) if labels else None,
                )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the images at 0-based indices (B,) as uint8 (B, C, H, W), like indexing a tensor.

        Raises:
            ValueError: as `batches`, or the format has no random access.
        """
        return _stack(list(self._threads.map(self._image, indices.tolist())))

    def _image(self, index: int) -> Pixels:
        if self._item is None:
            raise ValueError(
                f"images of {self.source} can only be read sequentially; use a folder or a .npy for random access"
            )
        with corrupt_file_errors(self.source):
            return self._prepare(self._item(index)).pixels

    def _read(self) -> Generator[Item, None, None]:
        with corrupt_file_errors(self.source), closing(self._items()) as items:
            yield from map(self._prepare, items)

    def _prepare(self, item: Item) -> Item:
        """Return the converted item; raise ValueError if it differs from the first one."""
        try:
            item = item._replace(pixels=self._conversion(item.pixels))
        except ValueError as error:
            raise ValueError(f"{item.name} of {self.source}: {error}") from error
        if self._first is None:
            self._first = item
        first = self._first
        if item.pixels.shape != first.pixels.shape:
            self._refuse_shape(first, item)
        if (item.label is None) != (first.label is None):
            labelled, unlabelled = (first, item) if item.label is None else (item, first)
            raise ValueError(
                f"{labelled.name} of {self.source} has a label but {unlabelled.name} does not; label all images or none"
            )
        return item

    def _refuse_shape(self, first: Item, item: Item) -> NoReturn:
        first_shape, shape = (shape_text(each.pixels.transpose(2, 0, 1).shape) for each in (first, item))
        channels = {each.pixels.shape[2] for each in (first, item)}
        size = self._conversion.size or (None if item.pixels.shape[:2] == first.pixels.shape[:2] else "SIZE")
        rgb = len(channels) == 2 and channels <= MODES.keys()
        if rgb:
            first_shape += f" ({MODES[first.pixels.shape[2]]})"
            shape += f" ({MODES[item.pixels.shape[2]]})"
        fixes = [*(["crop and resize"] if size == "SIZE" else []), *(["convert them to RGB"] if rgb else [])]
        raise ValueError(
            f"images of {self.source} differ in shape: {first.name} is {first_shape}, {item.name} is {shape}; give all "
            f"the same size and number of channels"
            + (f", or use {request(self.source, size, rgb=rgb)} to {' and '.join(fixes)}" if fixes else "")
        )


@contextmanager
def corrupt_file_errors(source: str) -> Iterator[None]:
    """Re-raise the errors of corrupt files as a ValueError that names ``source``."""
    try:
        yield
    except CORRUPT_FILE_ERRORS as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the file is missing or not readable
        reason = str(error) or type(error).__name__
        if "allow_pickle" in reason:  # NumPy's advice for files of any other format
            reason = "it is no file of NumPy arrays"
        raise ValueError(f"{source} is corrupt, truncated or not in the format of its suffix ({reason})") from error


def decode_item(
    source: str, name: str, encoded: bytes, label: int | None = None, conversion: Conversion = NO_CONVERSION
) -> Item:
    """Decode the image file ``name`` of ``source``; raise the errors of `decode`."""
    return Item(name, decode(f"{name} of {source}", source, encoded, conversion), label)


def decode(title: str, source: str, encoded: bytes, conversion: Conversion) -> Pixels:
    """Decode an image file, in RGB if the conversion requests it.

    Raises:
        ValueError: as `decode_image`, with ``title``, and with what to give for ``source`` if RGB helps.
    """
    try:
        return decode_image(encoded, rgb=conversion.rgb)
    except ModeError as error:
        raise ValueError(f"{title}: {error}; use {conversion.to_rgb(source)} to convert the images") from error
    except ValueError as error:
        raise ValueError(f"{title}: {error}") from error


def shape_text(shape: Sequence[int]) -> str:
    """Format (C, H, W) for messages: ``32x32 with 3 channels``."""
    channels, height, width = shape
    return f"{height}x{width} with {channels} channel{'s' if channels > 1 else ''}"


def _stack(images: list[Pixels]) -> Tensor:
    """Stack images (H, W, C) -> (B, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))
