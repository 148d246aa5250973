# SPDX-License-Identifier: Apache-2.0
"""Sets that end as one file, or a few: each batch waits as a part until the set is complete."""

from __future__ import annotations

import hashlib
import shutil
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from zipfile import BadZipFile

import numpy as np

from scoresde_fast.data.codecs import Pixels
from scoresde_fast.files import make_folder, replacing, sync_folder
from scoresde_fast.generate.seeds import Integers, SeedSet
from scoresde_fast.generate.stores.store import Damage, Samples, Store

PART = 1024
"""Images in a part that `Archive.remove` writes."""
OPEN_FILES = 8
"""Files that are open at once. The parts of a set have ascending seeds, except those of interrupted runs."""
DAMAGED = (BadZipFile, EOFError, KeyError, ValueError)
"""The errors of reading a file that is damaged or has another format."""


class Archive(Store):
    """``SET.npz`` or the like, beside ``SET.samples.json`` and ``SET.grid.png``.

    Batches wait as parts in the folder ``SET.npz.partial`` until the set is complete; then one archive replaces them.
    The new batches of an archive that grows wait there again.  Every file records its seeds.

    Raises:
        ValueError: ``out`` is a folder.
    """

    part_suffix: str

    def __init__(self, out: Path) -> None:
        if out.is_dir():
            raise ValueError(f"{out} is a folder; an archive needs another --out")
        super().__init__(out)
        self.manifest = out.with_name(f"{out.stem}.samples.json")
        self.grid = out.with_name(f"{out.stem}.grid.png")
        self.work = out.with_name(f"{out.name}.partial")

    @abstractmethod
    def encode(self, samples: Samples) -> Sequence[Any]:
        """Return the images of a batch as the archive stores them."""

    @abstractmethod
    def decode(self, image: Any) -> Pixels:
        """Return a stored image as (H, W, C) uint8; raise ValueError where it is damaged."""

    @abstractmethod
    def write_part(self, file: BinaryIO, seeds: list[int], images: Sequence[Any]) -> None:
        """Write stored images as a part."""

    @abstractmethod
    def open_part(self, path: Path) -> Reader:
        """Open a part."""

    @abstractmethod
    def write_archive(self, file: BinaryIO, seeds: Integers, images: Iterator[Any]) -> None:
        """Write the stored images of ``seeds`` as an archive; equal images give equal bytes."""

    @abstractmethod
    def open_archive(self, path: Path) -> Reader:
        """Open a finished archive."""

    def archives(self) -> list[Path]:
        """Return the finished archives that exist."""
        return [self.out] if self.out.exists() else []

    def divided(self, seeds: SeedSet) -> Iterator[tuple[Path, SeedSet]]:
        """Yield the archives of a set with all ``seeds``, and the seeds of each."""
        yield self.out, seeds

    def present(self, *, broken: bool = False) -> SeedSet:
        with closing(self._readers()) as readers:
            for path, reason in readers.broken.items():
                if not broken and path.parent != self.work:  # the images of a broken part are merely missing
                    raise ValueError(
                        f"{path} is not an archive of samples ({reason}); choose another --out, move it, or if it was "
                        f"one repair it: scoresde-fast verify {self.out} --repair"
                    )
            return readers.seeds

    def look(self, seeds: SeedSet) -> Iterator[tuple[int, Pixels | Damage]]:
        with closing(self._readers()) as readers:
            for seed, read in readers.images(seeds):
                try:
                    yield seed, self.decode(read())
                except DAMAGED as error:
                    yield seed, Damage(f"is damaged ({error})")

    def write(self, seeds: list[int], samples: Samples) -> int:
        return self._write_part(seeds, self.encode(samples), sync=False)

    def remove(self, seeds: SeedSet) -> None:
        """Remove every file with one of ``seeds``; its other images become parts first."""
        with closing(self._readers()) as readers:
            paths = [path for path, its in readers.of_file.items() if len(its & seeds)]
            kept = SeedSet.union(readers.of_file[path] for path in paths) - seeds
            for batch in kept.batches(PART):
                images = [read() for _, read in readers.images(SeedSet.of(batch))]
                self._write_part(batch, images, sync=True)
            for path in (*paths, *readers.broken):
                path.unlink()

    def pack(self, seeds: SeedSet) -> None:
        with closing(self._readers()) as readers:
            for path, its in self.divided(seeds):
                if readers.of_file.get(path) != its:
                    with replacing(path) as file:
                        self.write_archive(file, its.array(), (read() for _, read in readers.images(its)))
        sync_folder(self.out.parent)  # the archive is durable before its parts are removed
        shutil.rmtree(self.work, ignore_errors=True)

    def prepare(self) -> None:
        super().prepare()
        make_folder(self.work)

    def foreign(self) -> Iterator[Path]:
        """Yield the foreign files in `work`; the folder of the archive itself is the user's."""
        own = {*self._parts(), *self.leftovers(), *self.work.glob("*.lock")}
        yield from sorted(set(self.work.iterdir()) - own if self.work.is_dir() else ())

    def _parts(self) -> list[Path]:
        return sorted(self.work.glob(f"part-*{self.part_suffix}"))

    def _write_part(self, seeds: list[int], images: Sequence[Any], *, sync: bool) -> int:
        digest = hashlib.sha256(str(seeds).encode()).hexdigest()[:8]
        make_folder(self.work)
        with replacing(self.work / f"part-{seeds[0]:012d}-{digest}{self.part_suffix}", sync=sync) as file:
            self.write_part(file, seeds, images)
            return file.tell()

    def _readers(self) -> Readers:
        openers: dict[Path, Callable[[], Reader]] = {path: partial(self.open_archive, path) for path in self.archives()}
        return Readers({**openers, **{path: partial(self.open_part, path) for path in self._parts()}})


class Reader(Protocol):
    """An open file of images.

    Attributes:
        seeds: (N,), the seed of each image.
    """

    seeds: Integers

    def image(self, place: int) -> Any:
        """Return the image of ``seeds[place]`` as the file stores it; raise one of `DAMAGED` where it cannot."""

    def close(self) -> None: ...


class Readers:
    """Readers of several files as one; an image is read from the first file that has it. To be closed.

    Args:
        openers: for each path a function that opens the file.

    Attributes:
        seeds: seeds of all files.
        of_file: seeds of each file.
        broken: unreadable files, with the reason.
    """

    def __init__(self, openers: Mapping[Path, Callable[[], Reader]]) -> None:
        self._openers = list(openers.values())
        self._open: OrderedDict[int, Reader] = OrderedDict()  # the least recently used first
        self.of_file: dict[Path, SeedSet] = {}
        self.broken: dict[Path, str] = {}
        seeds: list[Integers] = [np.zeros(0, np.int64)]
        files, places = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        for file, path in enumerate(openers):
            try:
                its = self._reader(file).seeds
            except DAMAGED as error:
                self.broken[path] = str(error)
                continue
            self.of_file[path] = SeedSet.merged(its, its)
            seeds.append(its)
            files.append(np.full(len(its), file, np.int32))
            places.append(np.arange(len(its), dtype=np.int32))
        self._seeds, first = np.unique(np.concatenate(seeds), return_index=True)
        self._files, self._places = np.concatenate(files)[first], np.concatenate(places)[first]
        self.seeds = SeedSet.union(self.of_file.values())

    def images(self, seeds: SeedSet) -> Iterator[tuple[int, Callable[[], Any]]]:
        """Yield (seed, a function that reads its image) of the ``seeds`` that exist, ascending."""
        wanted = (seeds & self.seeds).array()
        for seed, at in zip(wanted.tolist(), np.searchsorted(self._seeds, wanted).tolist(), strict=True):
            yield seed, partial(self._image, int(self._files[at]), int(self._places[at]))

    def _image(self, file: int, place: int) -> Any:
        return self._reader(file).image(place)

    def _reader(self, file: int) -> Reader:
        if file not in self._open:
            self._open[file] = self._openers[file]()
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(file)
        return self._open[file]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()
