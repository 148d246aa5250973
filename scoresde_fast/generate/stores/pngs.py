# SPDX-License-Identifier: Apache-2.0
"""Sets of PNGs: a folder, a ``.zip``, and ``.tar`` shards for WebDataset."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from functools import cached_property
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np

from scoresde_fast.data.codecs import Pixels, decode_verified_png, encode_png
from scoresde_fast.files import make_folder, write_atomically
from scoresde_fast.generate.seeds import Integers, SeedSet
from scoresde_fast.generate.stores import Samples, Store
from scoresde_fast.generate.stores.archive import Archive

PER_FOLDER = 1000
PER_SHARD = 10_000
"""Seeds of a .tar shard: shard i has the seeds 10 000 i to 10 000 i + 9 999."""
SEEDS_KEY = "SCORESDE_FAST.seeds"
"""Key of the seeds in the global header of a .tar and the comment of a .zip; other readers ignore it."""
END_SIGNATURE, END_RECORD, MAX_COMMENT = b"PK\x05\x06", 22, 65535
"""End record of a .zip: its first bytes, its length, and the maximum length of the comment after it."""
_PNG = re.compile(r"(\d{6}|[1-9]\d{6,})\.png", re.ASCII)
_SUBFOLDER = re.compile(r"\d{3,}", re.ASCII)


class PngFolder(Store):
    """``OUT/000/000000.png, ...``, a thousand seeds per subfolder, with ``OUT/samples.json`` and ``OUT/grid.png``.

    Raises:
        ValueError: ``out`` is a file.
    """

    format = "png"

    def __init__(self, out: Path) -> None:
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out {out} is a file, but a name without a suffix is a folder of PNGs; choose another")
        super().__init__(out)
        self.manifest = out / "samples.json"
        self.grid = out / "grid.png"
        self.work = out / ".work"

    def present(self, *, ignore_broken: bool = False) -> SeedSet:
        return SeedSet.of(chain.from_iterable(map(_seeds_in, self._subfolders())))

    def try_read(self, seeds: SeedSet) -> Iterator[tuple[int, Pixels | Exception]]:
        for seed in seeds:
            try:
                yield seed, decode_verified_png(self._path(seed).read_bytes())
            except FileNotFoundError:
                continue
            except ValueError as error:
                yield seed, error

    def write(self, seeds: list[int], samples: Samples) -> int:
        size, out = 0, str(self.out)  # strings are faster than paths
        for subfolder in {seed // PER_FOLDER for seed in seeds}:
            make_folder(self.out / f"{subfolder:03d}")
        for seed, pixels in zip(seeds, samples, strict=True):
            png = encode_png(pixels)
            write_atomically(f"{out}/{seed // PER_FOLDER:03d}/{_png_name(seed)}", png)
            size += len(png)
        return size

    def remove(self, seeds: SeedSet) -> None:
        for seed in seeds:
            self._path(seed).unlink(missing_ok=True)

    def pack(self, seeds: SeedSet) -> None:
        """Do nothing: the images are the set."""

    def folders(self) -> list[Path]:
        return [self.out, *self._subfolders()]

    def foreign(self) -> Iterator[Path]:
        for folder, folders, names in os.walk(self.out):
            if Path(folder) == self.work:
                folders.clear()
                continue
            for name in names:
                path, seed = Path(folder, name), _png_seed(name)
                if path not in (self.manifest, self.grid) and (seed is None or path != self._path(seed)):
                    yield path

    def _path(self, seed: int) -> Path:
        return self.out / f"{seed // PER_FOLDER:03d}" / _png_name(seed)

    def _subfolders(self) -> list[Path]:
        return [path for path in self.out.glob("*") if _SUBFOLDER.fullmatch(path.name) and path.is_dir()]


class PngArchive(Archive):
    """An archive of PNGs; its parts are .zip files."""

    part_suffix = ".zip"

    def encode(self, samples: Samples) -> list[bytes]:
        return [encode_png(pixels) for pixels in samples]

    def decode(self, image: bytes) -> Pixels:
        return decode_verified_png(image)

    def write_part(self, file: BinaryIO, seeds: Integers, images: Iterable[bytes]) -> None:
        with ZipFile(file, "w") as archive:
            for seed, image in zip(seeds.tolist(), images, strict=True):
                archive.writestr(ZipInfo(_png_name(seed)), image)  # ZipInfo's date is fixed
            comment = f"{SEEDS_KEY}={SeedSet.merged(seeds, seeds)}".encode()
            archive.comment = comment if len(comment) <= MAX_COMMENT else b""

    def open_part(self, path: Path) -> _ZipReader:
        return _ZipReader(path)


class ZipArchive(PngArchive):
    """``000000.png, ...`` in a .zip, stored without further compression.

    The number of images is limited because a .zip's directory is in memory while the .zip is written.
    """

    format = "zip"
    max_images = 200_000

    write_archive = PngArchive.write_part
    open_archive = PngArchive.open_part


class TarShards(PngArchive):
    """``SET-000000.tar, ...`` in the format of WebDataset: ``000000.png, ...``, with 10 000 seeds per file."""

    format = "tar"

    def archives(self) -> list[Path]:
        name = re.compile(re.escape(self.out.stem) + r"-\d{6,}\.tar", re.ASCII)
        return sorted(path for path in self.out.parent.glob("*.tar") if name.fullmatch(path.name))

    def seeds_by_archive(self, seeds: SeedSet) -> Iterator[tuple[Path, SeedSet]]:
        shards = (range(first // PER_SHARD, last // PER_SHARD + 1) for first, last in seeds.ranges())
        for shard in sorted(set(chain.from_iterable(shards))):
            shard_seeds = SeedSet.of(range(shard * PER_SHARD, (shard + 1) * PER_SHARD))
            yield self.out.with_name(f"{self.out.stem}-{shard:06d}.tar"), seeds & shard_seeds

    def write_archive(self, file: BinaryIO, seeds: Integers, images: Iterable[bytes]) -> None:
        header = {SEEDS_KEY: str(SeedSet.merged(seeds, seeds))}
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers=header) as archive:
            for seed, image in zip(seeds.tolist(), images, strict=True):
                member = tarfile.TarInfo(_png_name(seed))  # its date and owner are fixed
                member.size = len(image)
                archive.addfile(member, BytesIO(image))
                archive.members.clear()  # type: ignore[attr-defined]  # else all headers stay in memory

    def open_archive(self, path: Path) -> _TarReader:
        return _TarReader(path)


class _ZipReader:
    """A `Reader` of PNGs in a .zip, whose directory is slow to read and therefore only read when it is needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        comment = _zip_comment(path)
        if comment.startswith(f"{SEEDS_KEY}="):
            self.seeds = SeedSet.parse(comment.removeprefix(f"{SEEDS_KEY}=")).array()
        else:
            seeds = map(_png_seed, self._archive.namelist())
            self.seeds = np.array([seed for seed in seeds if seed is not None], np.int64)

    @cached_property
    def _archive(self) -> ZipFile:
        return ZipFile(self._path)

    def image(self, index: int) -> bytes:
        return self._archive.read(_png_name(int(self.seeds[index])))

    def close(self) -> None:
        if "_archive" in self.__dict__:
            self._archive.close()


class _TarReader:
    """A `Reader` of PNGs in a .tar."""

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

    def image(self, index: int) -> bytes:
        member = self._archive.extractfile(self._members[_png_name(int(self.seeds[index]))])
        if member is None:
            raise ValueError("not a file")
        return member.read()

    def close(self) -> None:
        self._archive.close()


def _zip_comment(path: Path) -> str:
    """Return the comment of a .zip without reading its directory; raise BadZipFile if the end is missing."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END_RECORD - MAX_COMMENT))
        tail = file.read()
    offset = tail.rfind(END_SIGNATURE)
    if offset < 0 or len(tail) < offset + END_RECORD:
        raise BadZipFile("its end is missing")
    return tail[offset + END_RECORD :].decode(errors="replace")


def _png_name(seed: int) -> str:
    return f"{seed:06d}.png"


def _png_seed(name: str) -> int | None:
    """Return the seed of the file name ``name``, or None for other files."""
    match = _PNG.fullmatch(name)
    return int(match[1]) if match else None


def _seeds_in(folder: Path) -> Iterator[int]:
    """Yield the seeds of a subfolder's images, except images that belong in another subfolder."""
    for seed in map(_png_seed, os.listdir(folder)):
        if seed is not None and seed // PER_FOLDER == int(folder.name):
            yield seed
