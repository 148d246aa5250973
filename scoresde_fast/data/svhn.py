# SPDX-License-Identifier: Apache-2.0
"""SVHN's cropped digits from their .mat files, image by image (Level 5 MAT files, as MathWorks describes them)."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Generator
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from scoresde_fast.data.items import Images, Item, reading

HEADER = 128
VERSION = b"\x00\x01IM"
COMPRESSED, MATRIX = 15, 14
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CHUNK = 1 << 16
IMAGE = (32, 32, 3)
LONGEST = 1 << 10
"""Bytes of what describes a matrix, at most: no file with more is one of these."""
LARGEST_LABEL = 10
"""The label of the digit 0; those of the others are the digits."""


class Reader(Protocol):
    """What numbers are read from: a file, or what is decompressed from it."""

    def read(self, length: int, /) -> bytes: ...


class Matrix(NamedTuple):
    """A variable of a .mat file: where it begins there, its name, sizes and type, and a reader at its first number."""

    offset: int
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    numbers: Reader


class _Inflated:
    """The bytes that a compressed element of a file holds."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inflate = zlib.decompressobj()
        self._waiting = bytearray()

    def read(self, length: int, /) -> bytes:
        while len(self._waiting) < length and (packed := self._file.read(CHUNK)):
            self._waiting += self._inflate.decompress(packed)
        taken = bytes(self._waiting[:length])
        del self._waiting[:length]
        return taken


def open_svhn(path: Path, size: int | None) -> Images:
    """The images ``X`` (32, 32, 3, N) uint8 with the labels ``y`` (N, 1) of an official .mat file; 10 is the digit 0.

    Raises:
        ValueError: it is no such file, or is damaged.
    """
    with reading(str(path)), open(path, "rb") as file:
        variables = _variables(file)
        if not {"X", "y"} <= set(variables):
            raise ValueError(f"{path} has {', '.join(variables) or 'nothing'}; SVHN's files have X and y")
        images, labels = variables["X"], variables["y"]
        if images.dtype != np.uint8 or images.shape[:-1] != IMAGE or images.shape[-1] != prod(labels.shape):
            raise ValueError(
                f"X of {path} is {images.dtype} {images.shape} and y {labels.shape}; images are uint8 (32, 32, 3, N), "
                "and each has one label"
            )
        packed = _whole(_matrix(file, labels.offset).numbers, labels.dtype.itemsize * images.shape[-1])
        digits = np.frombuffer(packed, labels.dtype).astype(int)
        if len(digits) and (digits.min() < 1 or digits.max() > LARGEST_LABEL):
            raise ValueError(f"y of {path} has labels {digits.min()} to {digits.max()}; SVHN's are 1 to 10")

    def items() -> Generator[Item, None, None]:
        with open(path, "rb") as file:
            numbers = _matrix(file, images.offset).numbers
            for index, label in enumerate((digits % LARGEST_LABEL).tolist()):
                # the first index runs fastest
                pixels = np.frombuffer(_whole(numbers, prod(IMAGE)), np.uint8)
                yield Item(str(index), pixels.reshape(IMAGE, order="F"), label)

    return Images(str(path), len(digits), items, size)


def _variables(file: BinaryIO) -> dict[str, Matrix]:
    header = file.read(HEADER)
    if header[-len(VERSION) :] != VERSION:
        raise EOFError("no header of a Level 5 MAT file with the low byte first")
    found: dict[str, Matrix] = {}
    offset = HEADER
    end = file.seek(0, io.SEEK_END)
    while offset < end:
        file.seek(offset)
        _, length = struct.unpack("<II", _whole(file, 8))
        if offset + 8 + length > end:
            raise EOFError(f"it ends after {end} of at least {offset + 8 + length} bytes")
        matrix = _matrix(file, offset)
        found[matrix.name] = matrix
        offset += 8 + length
    return found


def _matrix(file: BinaryIO, offset: int) -> Matrix:
    file.seek(offset)
    kind, _ = struct.unpack("<II", _whole(file, 8))
    element: Reader = file
    if kind == COMPRESSED:
        element = _Inflated(file)
        kind, _ = struct.unpack("<II", _whole(element, 8))
    if kind != MATRIX:
        raise EOFError(f"an element of type {kind} where a matrix should be")
    _field(element)  # flags: nothing that the type of the numbers does not say
    shape = tuple(np.frombuffer(_field(element), "<i4").tolist())
    name = _field(element).decode("ascii", "replace")
    kind, _, packed = _tag(element)
    dtype = np.dtype(f"<{TYPES.get(kind, 'V1')}")
    return Matrix(offset, name, shape, dtype, element if packed is None else io.BytesIO(packed))


def _field(element: Reader) -> bytes:
    """The bytes of the next part of a matrix."""
    _, length, packed = _tag(element)
    if packed is not None:
        return packed
    if length > LONGEST:
        raise EOFError(f"{length} bytes that describe a matrix")
    return _whole(element, length + -length % 8)[:length]


def _tag(element: Reader) -> tuple[int, int, bytes | None]:
    """Type and length in bytes of what comes next; up to four bytes of content stand in the tag itself."""
    tag = _whole(element, 8)
    kind, length = struct.unpack("<II", tag)
    if kind >> 16:
        return kind & 0xFFFF, kind >> 16, tag[4 : 4 + (kind >> 16)]
    return kind, length, None


def _whole(reader: Reader, length: int) -> bytes:
    found = reader.read(length)
    if len(found) != length:
        raise EOFError(f"{length} bytes are wanted and {len(found)} are left")
    return found
