# SPDX-License-Identifier: Apache-2.0
"""Readers of sets of images in one array: ``arr_0`` of a .npz, or a .npy."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from tokenize import TokenError
from typing import IO
from zipfile import ZipFile

import numpy as np

from scoresde_fast.data.items import Images, Item, reading

MEMBER = "arr_0.npy"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def open_npz(path: Path, size: int | None) -> Images:
    """Open the images ``arr_0`` (N, H, W, C) uint8, which are read one by one; their names are their numbers."""
    with reading(str(path)), ZipFile(path) as archive:
        if MEMBER not in archive.namelist():
            found = ", ".join(Path(name).stem for name in archive.namelist()) or "nothing"
            raise ValueError(f"{path} has {found}; images are arr_0 (N, H, W, C) uint8")
        with archive.open(MEMBER) as file:
            count = read_image_header(file, f"arr_0 of {path}")[0]

    def items() -> Generator[Item, None, None]:
        with ZipFile(path) as archive, archive.open(MEMBER) as file:
            yield from _images(file, f"arr_0 of {path}")

    return Images(str(path), count, items, size)


def open_npy(path: Path, size: int | None) -> Images:
    """Open the images of a .npy (N, H, W, C) uint8, which is mapped into memory; their names are their numbers."""
    with reading(str(path)), open(path, "rb") as file:
        shape = read_image_header(file, str(path))
        if os.fstat(file.fileno()).st_size - file.tell() != np.prod(shape):
            raise EOFError(f"its header promises {shape[0]} images")
    pages = np.load(path, mmap_mode="r")

    def item(number: int) -> Item:
        return Item(str(number), np.asarray(pages[number]))

    def items() -> Generator[Item, None, None]:
        yield from map(item, range(shape[0]))

    return Images(str(path), shape[0], items, size, item=item)


def read_image_header(file: IO[bytes], name: str) -> tuple[int, int, int, int]:
    """Read the header of an array from ``file``, and return its shape (N, H, W, C)."""
    try:
        version = np.lib.format.read_magic(file)
        shape, by_columns, dtype = _HEADERS[version](file)
    except (KeyError, SyntaxError, TokenError, TypeError, ValueError) as error:
        raise EOFError(f"no header of an array: {error}") from error
    if dtype != np.uint8:
        raise ValueError(f"{name} is {dtype}; 8-bit images, uint8, are needed")
    if len(shape) != 4:
        raise ValueError(f"{name} has shape {shape}; images are (N, H, W, C)")
    if by_columns:
        raise ValueError(f"{name} is stored in Fortran order; save it with numpy.ascontiguousarray")
    return shape


def _images(file: IO[bytes], name: str) -> Generator[Item, None, None]:
    count, *shape = read_image_header(file, name)
    length = int(np.prod(shape))
    for index in range(count):
        pixels = file.read(length)
        if len(pixels) != length:
            raise EOFError(f"it ends in image {index} of {count}")
        yield Item(str(index), np.frombuffer(pixels, np.uint8).reshape(shape))
