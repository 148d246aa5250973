# SPDX-License-Identifier: Apache-2.0
"""Sets in one array: ``.npz`` of 8-bit pixels, the format of FID programs, and ``.npy`` of floats."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from scoresde_fast.data.array_files import read_image_header
from scoresde_fast.data.codecs import Pixels
from scoresde_fast.generate.pixels import to_pixels
from scoresde_fast.generate.seeds import Integers
from scoresde_fast.generate.stores import Samples
from scoresde_fast.generate.stores.archive import Archive

LOCAL_HEADER, LENGTHS = 30, slice(26, 30)
"""A .zip member's header has 30 bytes; bytes 26 to 29 are the lengths of the name and extra field that follow it."""


class _Rows:
    """A `Reader` of the rows of an array, which may be memory-mapped."""

    def __init__(self, seeds: Integers, rows: Samples) -> None:
        if len(seeds) != len(rows):
            raise ValueError(f"{len(rows)} images but {len(seeds)} seeds")
        self.seeds, self._rows = seeds, rows

    def image(self, index: int) -> Samples:
        return np.array(self._rows[index])

    def close(self) -> None:
        del self._rows  # closes the file if the array is memory-mapped


class _Part:
    """A `Reader` of a part, whose images are only read when one of them is needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _load(path) as archive:
            self.seeds = archive["seeds"]

    @cached_property
    def _rows(self) -> _Rows:
        with _load(self._path) as archive:
            return _Rows(self.seeds, archive["samples"])

    def image(self, index: int) -> Samples:
        return self._rows.image(index)

    def close(self) -> None:
        """Do nothing: the file is open only while it is read."""


class ArrayArchive(Archive):
    """Images as the rows of one array, sorted by seed."""

    part_suffix = ".npz"
    dtype: np.dtype[Any]

    def name_of(self, seed: int) -> str:
        return f"{seed:06d}"

    def seed_of(self, name: str) -> int | None:
        return int(name) if name.isdecimal() and name.isascii() else None

    def encode(self, samples: Samples) -> list[Samples]:
        return list(np.ascontiguousarray(samples))

    def write_part(self, file: BinaryIO, seeds: Integers, images: Iterable[Any]) -> None:
        np.savez(file, seeds=seeds, samples=np.asarray(images))

    def open_part(self, path: Path) -> _Part:
        return _Part(path)

    def write_archive(self, file: BinaryIO, seeds: Integers, images: Iterable[Any]) -> None:
        rows = iter(images)
        first = next(rows)
        header = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (len(seeds), *first.shape)}
        self.write_rows(file, header, seeds, chain([first], rows))

    @abstractmethod
    def write_rows(self, file: BinaryIO, header: dict[str, Any], seeds: Integers, rows: Iterator[Any]) -> None:
        """Write the archive row by row, so that the set is never in memory as a whole."""


class NpzArchive(ArrayArchive):
    """``arr_0`` (N, H, W, C) uint8, as FID programs read it, and ``seeds`` (N,) int64."""

    format = "npz"
    dtype = np.dtype(np.uint8)

    def decode(self, image: Samples) -> Pixels:
        return image

    def write_rows(self, file: BinaryIO, header: dict[str, Any], seeds: Integers, rows: Iterator[Any]) -> None:
        with ZipFile(file, "w") as archive:  # ZipInfo's date is fixed: equal sets have equal files
            with archive.open(ZipInfo("arr_0.npy"), "w", force_zip64=True) as member:
                npy.write_array_header_1_0(member, header)
                for row in rows:
                    member.write(row.tobytes())
            with archive.open(ZipInfo("seeds.npy"), "w", force_zip64=True) as member:
                npy.write_array(member, seeds, allow_pickle=False)

    def open_archive(self, path: Path) -> _Rows:
        with _load(path) as archive:
            seeds = archive["seeds"]
        return _Rows(seeds, _mapped_member(path, "arr_0.npy"))


class NpyArchive(ArrayArchive):
    """(N, C, H, W) float32 in [0, 1], not rounded.  The seeds (int64) follow the array; other readers ignore them."""

    format = "npy"
    rounds = False
    dtype = np.dtype(np.float32)

    def to_samples(self, images: Tensor, rounding: str) -> Tensor:
        return images.detach().float().contiguous()

    def decode(self, image: Samples) -> Pixels:
        return to_pixels(torch.from_numpy(image)[None], "round")[0]

    def write_rows(self, file: BinaryIO, header: dict[str, Any], seeds: Integers, rows: Iterator[Any]) -> None:
        npy.write_array_header_1_0(file, header)
        for row in rows:
            file.write(row.tobytes())
        file.write(seeds.tobytes())

    def open_archive(self, path: Path) -> _Rows:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        seeds = np.fromfile(path, np.int64, offset=rows.offset + rows.nbytes)
        return _Rows(seeds, rows)


def _load(path: Path) -> Any:
    """Open a .npz of uncompressed arrays; raise ValueError for others, whose size in memory is unknown."""
    archive = np.load(path, allow_pickle=False)
    for member in archive.zip.infolist():
        if member.compress_type != ZIP_STORED or member.file_size > path.stat().st_size:
            archive.close()
            raise ValueError(f"{member.filename} is compressed")
    return archive


def _mapped_member(path: Path, name: str) -> Samples:
    """Memory-map an uncompressed array of images in a .zip."""
    with ZipFile(path) as archive:
        info = archive.getinfo(name)
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        lengths = np.frombuffer(file.read(LOCAL_HEADER)[LENGTHS], "<u2")
        if len(lengths) != 2:
            raise BadZipFile(f"{name} is truncated")
        file.seek(int(lengths.sum()), os.SEEK_CUR)
        shape = read_image_header(file, name)
        return np.memmap(path, np.uint8, "r", file.tell(), shape)
