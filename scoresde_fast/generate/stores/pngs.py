# SPDX-License-Identifier: Apache-2.0
"""Archives of PNGs: ``.zip`` for programs and people, ``.tar`` shards for webdataset."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np

from scoresde_fast.data.codecs import Pixels, decode_intact_png, encode_png
from scoresde_fast.generate.seeds import Integers, SeedSet
from scoresde_fast.generate.stores.archive import Archive
from scoresde_fast.generate.stores.store import Samples, png_name, png_seed

PER_SHARD = 10_000
"""Seeds of a .tar shard: shard i has the seeds from 10 000 i on."""
SEEDS_KEY = "SCORESDE_FAST.seeds"
"""Key of the seeds in the global header of a .tar and the comment of a .zip, which other readers ignore."""
END_SIGNATURE, END_RECORD, LONGEST_COMMENT = b"PK\x05\x06", 22, 65535
"""The end record of a .zip: its first bytes, its length, and the longest comment that may follow."""


class _ZipReader:
    """A `Reader` of the PNGs of a .zip.  The directory, slow to read for many images, is read with the first image."""

    def __init__(self, path: Path) -> None:
        self._path = path
        comment = _zip_comment(path)
        if comment.startswith(f"{SEEDS_KEY}="):
            self.seeds = SeedSet.parse(comment.removeprefix(f"{SEEDS_KEY}=")).array()
        else:
            names = (png_seed(name) for name in self._archive.namelist())
            self.seeds = np.array([seed for seed in names if seed is not None], np.int64)

    @cached_property
    def _archive(self) -> ZipFile:
        return ZipFile(self._path)

    def image(self, place: int) -> bytes:
        return self._archive.read(png_name(int(self.seeds[place])))

    def close(self) -> None:
        if "_archive" in self.__dict__:
            self._archive.close()


class _TarReader:
    """A `Reader` of the PNGs of a .tar."""

    def __init__(self, path: Path) -> None:
        try:
            self._archive = tarfile.open(path, "r:")  # noqa: SIM115  (closed by close)
            self.seeds = SeedSet.parse(self._archive.pax_headers[SEEDS_KEY]).array()
        except tarfile.TarError as error:
            raise ValueError(str(error)) from error

    @cached_property
    def _members(self) -> dict[str, tarfile.TarInfo]:
        try:
            return {member.name: member for member in self._archive}
        except tarfile.TarError as error:
            raise ValueError(str(error)) from error

    def image(self, place: int) -> bytes:
        member = self._archive.extractfile(self._members[png_name(int(self.seeds[place]))])
        if member is None:
            raise ValueError("not a file")
        return member.read()

    def close(self) -> None:
        self._archive.close()


class PngArchive(Archive):
    """Images as PNGs; parts are .zip files."""

    part_suffix = ".zip"

    def encode(self, samples: Samples) -> list[bytes]:
        return [encode_png(pixels) for pixels in samples]

    def decode(self, image: bytes) -> Pixels:
        return decode_intact_png(image)

    def write_part(self, file: BinaryIO, seeds: list[int], images: Sequence[bytes]) -> None:
        _write_zip(file, seeds, iter(images))

    def open_part(self, path: Path) -> _ZipReader:
        return _ZipReader(path)


class ZipArchive(PngArchive):
    """``000000.png, ...``, stored without a second compression; its directory is in memory while it is written."""

    format = "zip"
    most = 200_000

    def write_archive(self, file: BinaryIO, seeds: Integers, images: Iterator[Any]) -> None:
        _write_zip(file, seeds.tolist(), images)

    def open_archive(self, path: Path) -> _ZipReader:
        return _ZipReader(path)


class TarShards(PngArchive):
    """``SET-000000.tar, ...`` of 10 000 seeds each, with ``000000.png, ...``, as webdataset reads them."""

    format = "tar"

    def archives(self) -> list[Path]:
        name = re.compile(re.escape(self.out.stem) + r"-\d{6,}\.tar", re.ASCII)
        there = self.out.parent.glob(f"{self.out.stem}-*.tar") if self.out.parent.is_dir() else ()
        return sorted(path for path in there if name.fullmatch(path.name))

    def divided(self, seeds: SeedSet) -> Iterator[tuple[Path, SeedSet]]:
        numbers = {int(number) for ends in (seeds.first, seeds.last) for number in ends // PER_SHARD}
        for first, last in zip(seeds.first.tolist(), seeds.last.tolist(), strict=True):
            numbers |= set(range(first // PER_SHARD, last // PER_SHARD))
        for number in sorted(numbers):
            shard = SeedSet.of(range(number * PER_SHARD, (number + 1) * PER_SHARD))
            yield self.out.with_name(f"{self.out.stem}-{number:06d}.tar"), seeds & shard

    def write_archive(self, file: BinaryIO, seeds: Integers, images: Iterator[Any]) -> None:
        header = {SEEDS_KEY: str(SeedSet.merged(seeds, seeds))}
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers=header) as archive:
            for seed, image in zip(seeds.tolist(), images, strict=True):
                member = tarfile.TarInfo(png_name(seed))  # its date and owner are fixed
                member.size = len(image)
                archive.addfile(member, BytesIO(image))
                archive.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory

    def open_archive(self, path: Path) -> _TarReader:
        return _TarReader(path)


def _write_zip(file: BinaryIO, seeds: list[int], images: Iterator[bytes]) -> None:
    with ZipFile(file, "w") as archive:
        for seed, image in zip(seeds, images, strict=True):
            archive.writestr(ZipInfo(png_name(seed)), image)  # ZipInfo's date is fixed
        comment = f"{SEEDS_KEY}={SeedSet.of(seeds)}".encode()
        archive.comment = comment if len(comment) <= LONGEST_COMMENT else b""


def _zip_comment(path: Path) -> str:
    """Return the comment of a .zip; raise BadZipFile where its end is missing."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END_RECORD - LONGEST_COMMENT))
        tail = file.read()
    place = tail.rfind(END_SIGNATURE)
    if place < 0 or len(tail) < place + END_RECORD:
        raise BadZipFile("its end is missing")
    return tail[place + END_RECORD :].decode(errors="replace")
