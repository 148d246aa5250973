# SPDX-License-Identifier: Apache-2.0
"""Sets of PNGs: a folder, a ``.zip``, and ``.tar`` shards for WebDataset."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from scoresde_fast.data.codecs import Pixels, decode_verified_png, encode_png
from scoresde_fast.data.file_names import is_ignored
from scoresde_fast.files import UNFINISHED, make_folder, read_file, write_atomically
from scoresde_fast.generate.seeds import Integers, SeedSet
from scoresde_fast.generate.stores import Samples, Store, Stored
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
    """``OUT/000/000000.png, ...``, a thousand seeds per subfolder, with ``OUT/samples.json`` and ``OUT.grid.png``.

    Raises:
        ValueError: ``out`` is a file.
    """

    format = "png"

    def __init__(self, out: Path) -> None:
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out {out} is a file, but a name without a suffix is a folder of PNGs; choose another")
        super().__init__(out)
        self.manifest = out / "samples.json"
        self.digests = out / "samples.sha256"
        self.work = out / ".work"

    def present(self, *, ignore_broken: bool = False) -> SeedSet:
        return SeedSet.of(chain.from_iterable(map(_seeds_in, self._subfolders())))

    def name_of(self, seed: int) -> str:
        return f"{seed // PER_FOLDER:03d}/{_png_name(seed)}"

    def seed_of(self, name: str) -> int | None:
        seed = _png_seed(name.rpartition("/")[2])
        return seed if seed is not None and name == self.name_of(seed) else None

    def encode(self, samples: Samples) -> list[bytes]:
        return [encode_png(pixels) for pixels in samples]

    def decode(self, image: Stored) -> Pixels:
        return decode_verified_png(image)

    def try_load(self, seeds: SeedSet) -> Iterator[tuple[int, Stored | Exception]]:
        for seed in seeds:
            try:
                yield seed, read_file(f"{self.out}/{self.name_of(seed)}")
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                yield seed, error

    def write(self, seeds: Sequence[int], images: Sequence[Stored]) -> int:
        size, out = 0, str(self.out)  # strings are faster than paths
        for subfolder in {seed // PER_FOLDER for seed in seeds}:
            folder = self.out / f"{subfolder:03d}"
            make_folder(folder)
            if folder.is_symlink():
                raise ValueError(f"{folder} is a link, whose target may belong to another set; replace it by a folder")
        for seed, png in zip(seeds, images, strict=True):
            write_atomically(f"{out}/{self.name_of(seed)}", png)
            size += len(png)
        return size

    def remove(self, seeds: SeedSet, archives: Collection[Path] = ()) -> None:
        for seed in seeds:
            path = self.out / self.name_of(seed)
            if not path.parent.is_symlink():
                with suppress(OSError):  # a folder in an image's place is kept
                    path.unlink()

    def pack(self, seeds: SeedSet, check: Callable[[int, Stored], None]) -> None:
        """Do nothing: the images are the set."""

    def leftovers(self) -> Iterator[Path]:
        yield from super().leftovers()
        for folder in self._subfolders():
            for path in folder.glob(f".*{UNFINISHED}"):
                if self.seed_of(f"{folder.name}/{path.name[1 : -len(UNFINISHED)]}") is not None:
                    yield path

    def foreign(self) -> Iterator[Path]:
        own = {self.manifest, self.digests, self.work}
        subfolders = self._subfolders()
        for folder in (self.out, *subfolders):
            for entry in os.scandir(folder):
                path = Path(entry.path)
                is_named = self.seed_of(f"{folder.name}/{entry.name}") is not None
                is_image = is_named and entry.is_file(follow_symlinks=False)
                if not (is_image or path in own or path in subfolders or is_ignored(entry.name)):
                    yield path

    def _subfolders(self) -> list[Path]:
        if not self.out.is_dir():
            return []
        folders = (entry for entry in os.scandir(self.out) if entry.is_dir(follow_symlinks=False))
        return [Path(folder.path) for folder in folders if _SUBFOLDER.fullmatch(folder.name)]


class PngArchive(Archive):
    """An archive of PNGs; its parts are .zip files."""

    part_suffix = ".zip"

    def name_of(self, seed: int) -> str:
        return _png_name(seed)

    def seed_of(self, name: str) -> int | None:
        return _png_seed(name)

    def encode(self, samples: Samples) -> list[bytes]:
        return [encode_png(pixels) for pixels in samples]

    def decode(self, image: Stored) -> Pixels:
        return decode_verified_png(image)

    def write_part(self, file: BinaryIO, seeds: Integers, images: Iterable[Stored]) -> None:
        with ZipFile(file, "w") as archive:
            for seed, image in zip(seeds.tolist(), images, strict=True):
                archive.writestr(ZipInfo(_png_name(seed)), image)  # ZipInfo's date is fixed
            comment = f"{SEEDS_KEY}={SeedSet.of_array(seeds)}".encode()
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

    def is_archive(self, name: str) -> bool:
        return re.fullmatch(re.escape(self.out.stem) + r"-\d{6,}\.tar", name, re.ASCII) is not None

    def archives(self) -> list[Path]:
        return sorted(path for path in self.out.parent.glob("*.tar") if self.is_archive(path.name) and path.is_file())

    def seeds_by_archive(self, seeds: SeedSet) -> Iterator[tuple[Path, SeedSet]]:
        shards = (range(first // PER_SHARD, last // PER_SHARD + 1) for first, last in seeds.ranges())
        for shard in sorted(set(chain.from_iterable(shards))):
            shard_seeds = SeedSet.of(range(shard * PER_SHARD, (shard + 1) * PER_SHARD))
            yield self.out.with_name(f"{self.out.stem}-{shard:06d}.tar"), seeds & shard_seeds

    def write_archive(self, file: BinaryIO, seeds: Integers, images: Iterable[Stored]) -> None:
        header = {SEEDS_KEY: str(SeedSet.of_array(seeds))}
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
            self.seeds = _parse_seeds(comment.removeprefix(f"{SEEDS_KEY}="), path)
        else:
            seeds = map(_png_seed, self._archive.namelist())
            self.seeds = np.array([seed for seed in seeds if seed is not None], np.int64)

    @cached_property
    def _archive(self) -> ZipFile:
        return ZipFile(self._path)

    def image(self, index: int) -> bytes:
        member = self._archive.getinfo(_png_name(int(self.seeds[index])))
        if member.compress_type != ZIP_STORED:
            raise ValueError("it is compressed, but the images of a set are stored")
        return self._archive.read(member)

    def close(self) -> None:
        if "_archive" in self.__dict__:
            self._archive.close()


class _TarReader:
    """A `Reader` of PNGs in a .tar."""

    def __init__(self, path: Path) -> None:
        _require_end(path)
        try:
            self._archive = tarfile.open(path, "r:")  # noqa: SIM115  (closed by close)
            self.seeds = _parse_seeds(self._archive.pax_headers[SEEDS_KEY], path)
        except KeyError as error:
            raise ValueError("its header has no seeds") from error

    @cached_property
    def _members(self) -> dict[str, tarfile.TarInfo]:
        return {member.name: member for member in self._archive}

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
    record, comment = tail[offset : offset + END_RECORD], tail[offset + END_RECORD :]
    # A record ends with the length of the comment.
    if offset < 0 or len(record) < END_RECORD or len(comment) != int.from_bytes(record[-2:], "little"):
        raise BadZipFile("its end is missing")
    return comment.decode(errors="replace")


def _require_end(path: Path) -> None:
    """Raise ReadError if a .tar lacks its end, two blocks of zeros and zeros up to a whole record: it was truncated."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2 * tarfile.BLOCKSIZE))
        if size % tarfile.RECORDSIZE or any(file.read()):
            raise tarfile.ReadError("its end is missing")


def _parse_seeds(text: str, path: Path) -> Integers:
    """Return the seeds in the header of an archive; raise ValueError if the file is too small to hold them."""
    seeds = SeedSet.parse(text)
    if len(seeds) > path.stat().st_size:
        raise ValueError(f"its header has {len(seeds)} seeds, but the file has {path.stat().st_size} bytes")
    return seeds.array()


def _png_name(seed: int) -> str:
    return f"{seed:06d}.png"


def _png_seed(name: str) -> int | None:
    """Return the seed of the file name ``name``, or None for other files."""
    match = _PNG.fullmatch(name)
    return int(match[1]) if match else None


def _seeds_in(folder: Path) -> Iterator[int]:
    """Yield the seeds of a subfolder's images, except links and images that belong in another subfolder."""
    for entry in os.scandir(folder):
        seed = _png_seed(entry.name)
        if seed is not None and seed // PER_FOLDER == int(folder.name) and entry.is_file(follow_symlinks=False):
            yield seed
