# SPDX-License-Identifier: Apache-2.0
"""`Archive`: sets in one or few files, assembled from parts when the set is complete."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from zipfile import BadZipFile

import numpy as np

from scoresde_fast.data.codecs import Pixels
from scoresde_fast.files import make_folder, replacing, sync_folder
from scoresde_fast.generate.seeds import Integers, SeedSet
from scoresde_fast.generate.stores import Samples, Store

PART_IMAGES = 1024
"""Images in a part that `Archive.remove` writes."""
MAX_OPEN_FILES = 8
"""Limit of open files; few suffice, because images are read by ascending seed, mostly one part after another."""
CORRUPT_ERRORS = (BadZipFile, EOFError, KeyError, ValueError)
"""Errors of reading a file that is corrupt or has another format."""


class Archive(Store):
    """A set in ``SET.npz`` or another archive, with ``SET.samples.json`` and ``SET.grid.png`` beside it.

    Batches are written as parts to the folder ``SET.npz.partial``.  When the set is complete, the parts, and the
    previous archive if the set has grown, are assembled into one archive.  Every file records its seeds.

    Raises:
        ValueError: ``out`` is a folder.
    """

    part_suffix: str

    def __init__(self, out: Path) -> None:
        if out.is_dir():
            raise ValueError(f"--out {out} is a folder; choose another name for the archive")
        super().__init__(out)
        self.manifest = out.with_name(f"{out.stem}.samples.json")
        self.grid = out.with_name(f"{out.stem}.grid.png")
        self.work = out.with_name(f"{out.name}.partial")

    def encode(self, samples: Samples) -> Iterable[Any]:
        """Return the images of a batch as the archive stores them."""
        return samples

    @abstractmethod
    def decode(self, image: Any) -> Pixels:
        """Return a stored image as (H, W, C) uint8; raise ValueError if it is corrupt."""

    @abstractmethod
    def write_part(self, file: BinaryIO, seeds: Integers, images: Iterable[Any]) -> None:
        """Write stored images as a part."""

    @abstractmethod
    def open_part(self, path: Path) -> Reader:
        """Open a part."""

    @abstractmethod
    def write_archive(self, file: BinaryIO, seeds: Integers, images: Iterable[Any]) -> None:
        """Write stored images as an archive; equal ``seeds`` and images give equal bytes."""

    @abstractmethod
    def open_archive(self, path: Path) -> Reader:
        """Open a finished archive."""

    def archives(self) -> list[Path]:
        """Return the existing finished archives."""
        return [self.out] if self.out.exists() else []

    def seeds_by_archive(self, seeds: SeedSet) -> Iterator[tuple[Path, SeedSet]]:
        """Yield (archive, its seeds) for each archive of a set with ``seeds``."""
        yield self.out, seeds

    def present(self, *, ignore_broken: bool = False) -> SeedSet:
        with closing(self._readers()) as readers:
            for path, reason in readers.broken.items():
                if not ignore_broken and path.parent != self.work:  # images of a broken part merely count as missing
                    raise ValueError(
                        f"{path} is not an archive of samples ({reason}); choose another --out, move the file, or, if "
                        f"it is a damaged set, repair it: scoresde-fast verify {self.out} --repair"
                    )
            return readers.seeds

    def try_read(self, seeds: SeedSet) -> Iterator[tuple[int, Pixels | Exception]]:
        with closing(self._readers()) as readers:
            for seed, read in readers.images(seeds):
                try:
                    yield seed, self.decode(read())
                except CORRUPT_ERRORS as error:
                    yield seed, error

    def write(self, seeds: list[int], samples: Samples) -> int:
        return self._write_part(seeds, self.encode(samples), sync=False)

    def remove(self, seeds: SeedSet) -> None:
        """Remove every file that contains one of ``seeds``; first write the file's other images to new parts."""
        with closing(self._readers()) as readers:
            paths = [path for path, file_seeds in readers.seeds_of.items() if len(file_seeds & seeds)]
            other_seeds = SeedSet.union(readers.seeds_of[path] for path in paths) - seeds
            for batch in other_seeds.batches(PART_IMAGES):
                images = [read() for _, read in readers.images(SeedSet.of(batch))]
                self._write_part(batch, images, sync=True)
            for path in (*paths, *readers.broken):
                path.unlink()

    def pack(self, seeds: SeedSet) -> None:
        with closing(self._readers()) as readers:
            if len(lost := seeds - readers.seeds):
                raise ValueError(
                    f"{self.out} cannot be assembled, because the images of seeds {lost} were deleted; run the same "
                    "command again, for every shard of the set"
                )
            for path, file_seeds in self.seeds_by_archive(seeds):
                if readers.seeds_of.get(path) != file_seeds:
                    with replacing(path) as file:
                        images = (read() for _, read in readers.images(file_seeds))
                        self.write_archive(file, file_seeds.array(), images)
        sync_folder(self.out.parent)  # make the archive durable before its parts are removed
        for path in self.work.iterdir():
            if path.suffix != ".lock":  # other processes may be waiting for a lock
                with suppress(OSError):
                    path.unlink()

    def foreign(self) -> Iterable[Path]:
        """Return the foreign files in `work`; the archive's own folder may contain any files."""
        return set(self.work.glob("*")) - {*self._parts(), *self.work.glob("*.lock")}

    def _parts(self) -> list[Path]:
        return sorted(self.work.glob(f"part-*{self.part_suffix}"))

    def _write_part(self, seeds: list[int], images: Iterable[Any], *, sync: bool) -> int:
        digest = hashlib.sha256(str(seeds).encode()).hexdigest()[:8]
        make_folder(self.work)
        with replacing(self.work / f"part-{seeds[0]:012d}-{digest}{self.part_suffix}", sync=sync) as file:
            self.write_part(file, np.array(seeds, np.int64), images)
            return file.tell()

    def _readers(self) -> Readers:
        while True:
            # The parts are listed first: if another process packs them meanwhile, the archive exists.
            parts = dict.fromkeys(self._parts(), self.open_part)
            archives = dict.fromkeys(self.archives(), self.open_archive)
            with suppress(FileNotFoundError):  # another process has removed a part: list the files again
                return Readers({**archives, **parts})


class Reader(Protocol):
    """An open archive or part.

    Attributes:
        seeds: (N,), the seed of each image.
    """

    seeds: Integers

    def image(self, index: int) -> Any:
        """Return the image of ``seeds[index]`` as stored; raise one of `CORRUPT_ERRORS` if it cannot be read."""

    def close(self) -> None: ...


class Readers:
    """Several files, read as one; an image in more than one file is read from the first.

    Args:
        openers: path -> the function that opens the file.

    Attributes:
        seeds: seeds of all files.
        seeds_of: seeds of each readable file.
        broken: unreadable files, with the reason.
    """

    def __init__(self, openers: Mapping[Path, Callable[[Path], Reader]]) -> None:
        self._openers = list(openers.items())
        self._open: OrderedDict[int, Reader] = OrderedDict()  # least recently used first
        self.seeds_of: dict[Path, SeedSet] = {}
        self.broken: dict[Path, str] = {}
        # For each image of each file: its seed, the index of the file, and its index in the file.
        seeds: list[Integers] = [np.zeros(0, np.int64)]
        files, indices = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        for file, path in enumerate(openers):
            try:
                file_seeds = self._reader(file).seeds
            except CORRUPT_ERRORS as error:
                self.broken[path] = str(error)
                continue
            self.seeds_of[path] = SeedSet.merged(file_seeds, file_seeds)
            seeds.append(file_seeds)
            files.append(np.full(len(file_seeds), file, np.int32))
            indices.append(np.arange(len(file_seeds), dtype=np.int32))
        self._seeds, first = np.unique(np.concatenate(seeds), return_index=True)
        self._files, self._indices = np.concatenate(files)[first], np.concatenate(indices)[first]
        self.seeds = SeedSet.union(self.seeds_of.values())

    def images(self, seeds: SeedSet) -> Iterator[tuple[int, Callable[[], Any]]]:
        """Yield (seed, a function that reads its image) for those ``seeds`` that are present, ascending."""
        present = (seeds & self.seeds).array()
        for seed, row in zip(present.tolist(), np.searchsorted(self._seeds, present).tolist(), strict=True):
            yield seed, partial(self._image, int(self._files[row]), int(self._indices[row]))

    def _image(self, file: int, index: int) -> Any:
        return self._reader(file).image(index)

    def _reader(self, file: int) -> Reader:
        if file not in self._open:
            path, opener = self._openers[file]
            self._open[file] = opener(path)
            if len(self._open) > MAX_OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(file)
        return self._open[file]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()
