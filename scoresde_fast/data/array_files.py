# SPDX-License-Identifier: Apache-2.0
"""Readers for images stored as one array: ``arr_0`` or ``position`` of a .npz, or a .npy."""

from __future__ import annotations

import os
from collections.abc import Collection, Generator
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, NamedTuple
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt

from scoresde_fast.data.codecs import Pixels
from scoresde_fast.data.conversion import Conversion
from scoresde_fast.data.images import Images, Item, corrupt_file_errors
from scoresde_fast.data.limits import require_pixels, require_ratio
from scoresde_fast.errors import shown

MEMBERS = ("arr_0.npy", "position.npy")
"""Arrays of images in a .npz: that of FID programs, and that of ``scoresde-fast sample --return-velocity``."""
SEED_BYTES = 8
"""The seeds that ``scoresde-fast sample`` writes after the floats of a .npy take 8 bytes for each image."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class ArrayHeader(NamedTuple):
    """Shape and type of an array of images: (N, H, W, C) uint8, or (N, C, H, W) floats in [0, 1]."""

    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Size of an image."""
        return prod(self.shape[1:]) * self.dtype.itemsize

    def pixels(self, row: npt.NDArray[Any], name: str) -> Pixels:
        """Return an image as (H, W, C) uint8; floats are rounded to the nearest value, as the set's own reader does.

        Raises:
            ValueError: a float is outside [0, 1]; the message contains ``name``.
        """
        if self.dtype == np.uint8:
            return row
        values = row.astype(np.float32)
        if not (values.min() >= 0 and values.max() <= 1):  # also for NaN
            raise ValueError(
                f"{name} has values from {values.min():.9g} to {values.max():.9g}; floats are images in [0, 1]: scale "
                "them, or save uint8"
            )
        return np.rint(values * 255).astype(np.uint8).transpose(1, 2, 0)


def open_npz(path: Path, conversion: Conversion) -> Images:
    """Open the images of a .npz; they are read one at a time, and named by their index."""
    with corrupt_file_errors(str(path)), ZipFile(path) as archive:
        member = next((name for name in MEMBERS if name in archive.namelist()), None)
        if member is None:
            raise ValueError(f"{path} contains {array_names(path)}; expected arr_0 (N, H, W, C) uint8")
        title = f"{Path(member).stem} of {path}"
        with archive.open(member) as file:
            header = read_header(file, title)

    def items() -> Generator[Item, None, None]:
        with ZipFile(path) as archive, archive.open(member) as file:
            count, *shape = read_header(file, title).shape
            for index in range(count):
                content = file.read(header.row_bytes)
                if len(content) != header.row_bytes:
                    raise EOFError(f"the file ends in image {index} of {count}")
                row = np.frombuffer(content, header.dtype).reshape(shape)
                yield Item(str(index), header.pixels(row, f"image {index} of {path}"))

    return Images(str(path), header.shape[0], items, conversion)


def open_npy(path: Path, conversion: Conversion) -> Images:
    """Open a .npy as a memory map; images are named by their index."""
    with corrupt_file_errors(str(path)), open(path, "rb") as file:
        header = read_header(file, str(path))
        count = header.shape[0]
        rest = os.fstat(file.fileno()).st_size - file.tell() - count * header.row_bytes
        if rest != 0 and (rest != SEED_BYTES * count or header.dtype == np.uint8):
            raise EOFError(f"the file's length does not match the {count} images in its header")
    array = np.load(path, mmap_mode="r")

    def item(index: int) -> Item:
        return Item(str(index), header.pixels(np.asarray(array[index]), f"image {index} of {path}"))

    return Images(str(path), count, lambda: (item(index) for index in range(count)), conversion, item=item)


def load_arrays(path: Path, names: Collection[str]) -> dict[str, npt.NDArray[Any]]:
    """Load those arrays ``names`` that a .npz contains, without pickles.

    Raises:
        ValueError: the file is corrupt, an array contains objects, or an array is packed as no real array is.
    """
    with corrupt_file_errors(str(path)), ZipFile(path) as archive, np.load(path, allow_pickle=False) as arrays:
        found = [name for name in names if name in arrays.files]
        for name in found:
            require_ratio(f"{name} of {path}", archive.getinfo(f"{name}.npy"))
        try:
            return {name: arrays[name] for name in found}
        except Exception as error:  # NumPy raises exceptions of many kinds for a corrupt header
            raise EOFError(shown(str(error))) from error


def array_names(path: Path) -> str:
    """Return the names of the arrays of a .npz, for messages."""
    with corrupt_file_errors(str(path)), ZipFile(path) as archive:
        return ", ".join(Path(name).stem for name in archive.namelist()) or "nothing"


def read_header(file: IO[bytes], name: str) -> ArrayHeader:
    """Read the .npy header at the start of ``file``; ``name`` is for messages.

    Raises:
        ValueError: the header is corrupt; the array is neither (N, H, W, C) uint8 nor (N, C, H, W) floats, in C order;
            or an image has too many pixels.
    """
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran_order, dtype = _HEADERS[version](file)
    except (KeyError, RecursionError, SyntaxError, TokenError, TypeError, ValueError) as error:
        raise ValueError(f"{name} has no valid .npy header: {shown(str(error))}") from error
    if dtype != np.uint8 and dtype.kind != "f":
        raise ValueError(f"{name} is {dtype}; expected 8-bit images (uint8), or floats in [0, 1]")
    if len(shape) != 4:
        raise ValueError(f"{name} has shape {shape}; expected images (N, H, W, C) of uint8, or (N, C, H, W) of floats")
    if fortran_order:
        raise ValueError(f"{name} is stored in Fortran order; save it with numpy.ascontiguousarray")
    if bool in map(type, shape) or shape[0] < 0 or min(shape[1:]) < 1:
        raise ValueError(f"{name} has shape {shape}; the number of images is 0 or more, their size 1 or more")
    if dtype.kind == "f" and shape[1] not in (1, 3):
        raise ValueError(f"{name} is {dtype} with shape {shape}; floats are (N, C, H, W) with 1 or 3 channels")
    try:
        require_pixels(prod(shape[1:]), 1)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return ArrayHeader(shape, dtype)


def read_image_header(file: IO[bytes], name: str) -> tuple[int, int, int, int]:
    """Return the shape (N, H, W, C) of `read_header`; also raise ValueError if the array is not uint8."""
    header = read_header(file, name)
    if header.dtype != np.uint8:
        raise ValueError(f"{name} is {header.dtype}; expected 8-bit images (uint8)")
    return header.shape
