# SPDX-License-Identifier: Apache-2.0
"""`Archive`: sets in one or few files, assembled from parts when the set is complete."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from scoresde_fast.data.file_names import is_ignored
from scoresde_fast.files import UNFINISHED, make_folder, replacing, sync_folder
from scoresde_fast.generate.seeds import EMPTY, Integers, SeedSet
from scoresde_fast.generate.stores import Store, Stored, beside, damaged_image

PART_IMAGES = 1024
"""Images in a part that `Archive.remove` writes."""
MAX_OPEN_FILES = 8
"""Limit of open files; few suffice, because images are read by ascending seed, mostly one part after another."""


class Archive(Store):
    """A set in ``SET.npz`` or another archive, with ``SET.npz.samples.json`` and its like beside it.

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
        self.manifest = beside(out, ".samples.json")
        self.digests = beside(out, ".sha256")
        self.work = beside(out, ".partial")

    @abstractmethod
    def write_part(self, file: BinaryIO, seeds: Integers, images: Iterable[Stored]) -> None:
        """Write stored images as a part."""

    @abstractmethod
    def open_part(self, path: Path) -> Reader:
        """Open a part."""

    @abstractmethod
    def write_archive(self, file: BinaryIO, seeds: Integers, images: Iterable[Stored]) -> None:
        """Write stored images as an archive; equal ``seeds`` and images give equal bytes."""

    @abstractmethod
    def open_archive(self, path: Path) -> Reader:
        """Open a finished archive."""

    def is_archive(self, name: str) -> bool:
        """Return whether a finished archive of this set has this file name."""
        return name == self.out.name

    def archives(self) -> list[Path]:
        return [self.out] if self.out.is_file() else []

    def seeds_in(self, path: Path) -> SeedSet:
        if not self.is_archive(path.name):
            return EMPTY
        with closing(self.open_archive(path)) as reader:
            return SeedSet.of_array(reader.seeds)

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

    def try_load(self, seeds: SeedSet) -> Iterator[tuple[int, Stored | Exception]]:
        with closing(self._readers()) as readers:
            for seed, read in readers.images(seeds):
                try:
                    yield seed, read()
                except Exception as error:  # zipfile, tarfile and NumPy raise exceptions of many kinds
                    yield seed, error

    def write(self, seeds: Sequence[int], images: Sequence[Stored]) -> int:
        return self._write_part(seeds, images, sync=False)

    def remove(self, seeds: SeedSet, archives: Collection[Path] = ()) -> None:
        """Remove the files that contain one of ``seeds``, and ``archives``; first write their other images to parts."""
        with closing(self._readers()) as readers:
            paths = [path for path, held in readers.seeds_of.items() if len(held & seeds) or path in archives]
            other_seeds = SeedSet.union(readers.seeds_of[path] for path in paths) - seeds
            for batch in other_seeds.batches(PART_IMAGES):
                images = [read() for _, read in readers.images(SeedSet.of(batch))]
                self._write_part(batch, images, sync=True)
            if len(other_seeds):
                sync_folder(self.work)  # before the files that have these images too are removed
            for path in (*paths, *readers.broken):
                path.unlink()

    def pack(self, seeds: SeedSet, check: Callable[[int, Stored], None]) -> None:
        def checked(seed: int, read: Callable[[], Stored]) -> Stored:
            try:
                image = read()
            except Exception as error:  # as in try_load
                raise damaged_image(seed, self.out, error) from error
            check(seed, image)
            return image

        with closing(self._readers()) as readers:
            if len(lost := seeds - readers.seeds):
                raise ValueError(
                    f"{self.out} cannot be assembled, because the images of seeds {lost} were deleted; run the same "
                    "command again, for every shard of the set"
                )
            for path, file_seeds in self.seeds_by_archive(seeds):
                if readers.seeds_of.get(path) != file_seeds:
                    with replacing(path) as file:
                        images = (checked(seed, read) for seed, read in readers.images(file_seeds))
                        self.write_archive(file, file_seeds.array(), images)

    def clean(self) -> None:
        for part in self._parts():  # and nothing else: a user's file may be among them
            with suppress(OSError):
                part.unlink()

    def leftovers(self) -> Iterator[Path]:
        yield from super().leftovers()
        yield from self.work.glob(f".part-*{UNFINISHED}")
        for path in self.out.parent.glob(f".*{UNFINISHED}"):
            if self.is_archive(path.name[1 : -len(UNFINISHED)]):
                yield path

    def foreign(self) -> Iterable[Path]:
        """Return the foreign files in `work`; the archive's own folder may contain any files."""
        own = {*self._parts(), *self.work.glob("*.lock")}
        return [path for path in self.work.glob("*") if path not in own and not is_ignored(path.name)]

    def _parts(self) -> list[Path]:
        return sorted(path for path in self.work.glob(f"part-*{self.part_suffix}") if path.is_file())

    def _write_part(self, seeds: Sequence[int], images: Iterable[Stored], *, sync: bool) -> int:
        digest = hashlib.sha256(str(list(seeds)).encode()).hexdigest()[:8]
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

    def image(self, index: int) -> Stored:
        """Return the image of ``seeds[index]`` as stored; raise an exception of any kind if it is corrupt."""

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
            except FileNotFoundError:  # another process has removed the file
                raise
            except Exception as error:  # as in `Archive.try_load`
                self.broken[path] = str(error) or type(error).__name__
                continue
            self.seeds_of[path] = SeedSet.of_array(file_seeds)
            seeds.append(file_seeds)
            files.append(np.full(len(file_seeds), file, np.int32))
            indices.append(np.arange(len(file_seeds), dtype=np.int32))
        self._seeds, first = np.unique(np.concatenate(seeds), return_index=True)
        self._files, self._indices = np.concatenate(files)[first], np.concatenate(indices)[first]
        self.seeds = SeedSet.union(self.seeds_of.values())

    def images(self, seeds: SeedSet) -> Iterator[tuple[int, Callable[[], Stored]]]:
        """Yield (seed, a function that reads its image) for those ``seeds`` that are present, ascending."""
        present = (seeds & self.seeds).array()
        for seed, row in zip(present.tolist(), np.searchsorted(self._seeds, present).tolist(), strict=True):
            yield seed, partial(self._image, int(self._files[row]), int(self._indices[row]))

    def _image(self, file: int, index: int) -> Stored:
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
