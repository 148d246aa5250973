# SPDX-License-Identifier: Apache-2.0
"""Readers for image sets stored as one array: ``arr_0`` of a .npz, or a .npy."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from tokenize import TokenError
from typing import IO
from zipfile import ZipFile

import numpy as np

from scoresde_fast.data.images import Images, Item, corrupt_file_errors

MEMBER = "arr_0.npy"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def open_npz(path: Path, size: int | None) -> Images:
    """Open ``arr_0`` (N, H, W, C) uint8 of a .npz; images are read one at a time, and named by their index."""
    with corrupt_file_errors(str(path)), ZipFile(path) as archive:
        if MEMBER not in archive.namelist():
            members = ", ".join(Path(name).stem for name in archive.namelist()) or "nothing"
            raise ValueError(f"{path} contains {members}; expected arr_0 (N, H, W, C) uint8")
        with archive.open(MEMBER) as file:
            count = read_image_header(file, f"arr_0 of {path}")[0]

    def items() -> Generator[Item, None, None]:
        with ZipFile(path) as archive, archive.open(MEMBER) as file:
            count, *shape = read_image_header(file, f"arr_0 of {path}")
            length = int(np.prod(shape))
            for index in range(count):
                pixels = file.read(length)
                if len(pixels) != length:
                    raise EOFError(f"the file ends in image {index} of {count}")
                yield Item(str(index), np.frombuffer(pixels, np.uint8).reshape(shape))

    return Images(str(path), count, items, size)


def open_npy(path: Path, size: int | None) -> Images:
    """Open a .npy (N, H, W, C) uint8 as a memory map; images are named by their index."""
    with corrupt_file_errors(str(path)), open(path, "rb") as file:
        shape = read_image_header(file, str(path))
        if os.fstat(file.fileno()).st_size - file.tell() != np.prod(shape):
            raise EOFError(f"the file's length does not match the {shape[0]} images in its header")
    array = np.load(path, mmap_mode="r")

    def item(index: int) -> Item:
        return Item(str(index), np.asarray(array[index]))

    return Images(str(path), shape[0], lambda: (item(index) for index in range(shape[0])), size, item=item)


def read_image_header(file: IO[bytes], name: str) -> tuple[int, int, int, int]:
    """Return the shape (N, H, W, C) in the .npy header at the start of ``file``; ``name`` is for messages.

    Raises:
        ValueError: the header is corrupt, or the array is not uint8 (N, H, W, C) in C order.
    """
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran_order, dtype = _HEADERS[version](file)
    except (KeyError, SyntaxError, TokenError, TypeError, ValueError) as error:
        raise ValueError(f"{name} has no valid .npy header: {error}") from error
    if dtype != np.uint8:
        raise ValueError(f"{name} is {dtype}; expected 8-bit images (uint8)")
    if len(shape) != 4:
        raise ValueError(f"{name} has shape {shape}; expected images (N, H, W, C)")
    if fortran_order:
        raise ValueError(f"{name} is stored in Fortran order; save it with numpy.ascontiguousarray")
    return shape
