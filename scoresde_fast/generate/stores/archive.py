# SPDX-License-Identifier: Apache-2.0
"""Sets that end as one file, or a few: images wait in parts, a batch each, until the set is complete."""

from __future__ import annotations

import hashlib
import shutil
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from scoresde_fast.data.png import Pixels
from scoresde_fast.files import make_folder, replacing, sync_folder
from scoresde_fast.generate.seed_set import Integers, SeedSet
from scoresde_fast.generate.stores.pieces import DAMAGED, Piece, Pieces
from scoresde_fast.generate.stores.store import Damage, Samples, Store

PART = 1024
"""Images of a part that is made of what another file had."""


class Archive(Store):
    """``SET.npz`` or the like, beside ``SET.samples.json`` and ``SET.grid.png``.

    Batches wait as parts in the folder ``SET.npz.partial`` until the set is complete; then they become the archive at
    once.  What is new in a finished archive that grows waits there again.  Every file knows its seeds.

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
    def kept(self, samples: Samples) -> Sequence[Any]:
        """The images of a batch as the archive keeps them."""

    @abstractmethod
    def pixels(self, image: Any) -> Pixels:
        """A kept image as levels (H, W, C) uint8; raises ValueError where it is damaged."""

    @abstractmethod
    def write_part(self, file: BinaryIO, seeds: list[int], images: Sequence[Any]) -> None:
        """Kept images as a part."""

    @abstractmethod
    def open_part(self, path: Path) -> Piece:
        """A part that was written."""

    @abstractmethod
    def open_archive(self, path: Path) -> Piece:
        """A finished archive."""

    @abstractmethod
    def write_archive(self, file: BinaryIO, seeds: Integers, images: Iterator[Any]) -> None:
        """The kept images of ``seeds`` as an archive: the same bytes for the same images."""

    def archives(self) -> list[Path]:
        """The finished archives that are there."""
        return [self.out] if self.out.exists() else []

    def divided(self, seeds: SeedSet) -> Iterator[tuple[Path, SeedSet]]:
        """The archives that ``seeds`` belong to, and which of them to each."""
        yield self.out, seeds

    def _parts(self) -> list[Path]:
        return sorted(self.work.glob(f"part-*{self.part_suffix}"))

    def _pieces(self) -> Pieces:
        openers: dict[Path, Callable[[], Piece]] = {path: partial(self.open_archive, path) for path in self.archives()}
        return Pieces({**openers, **{path: partial(self.open_part, path) for path in self._parts()}})

    def present(self, *, broken: bool = False) -> SeedSet:
        with closing(self._pieces()) as pieces:
            for path, reason in pieces.broken.items():
                if not broken and path.parent != self.work:  # a part's images are missing, and that is all
                    raise ValueError(
                        f"{path} is no archive of samples ({reason}); choose another --out, move it, or if it was one "
                        f"repair it: scoresde-fast verify {self.out} --repair"
                    )
            return pieces.seeds

    def look(self, seeds: SeedSet) -> Iterator[tuple[int, Pixels | Damage]]:
        with closing(self._pieces()) as pieces:
            for seed, image in pieces.images(seeds):
                try:
                    yield seed, self.pixels(image())
                except DAMAGED as error:
                    yield seed, Damage(f"is damaged ({error})")

    def write(self, seeds: list[int], samples: Samples) -> int:
        return self._write_part(seeds, self.kept(samples), sync=False)

    def _write_part(self, seeds: list[int], images: Sequence[Any], *, sync: bool) -> int:
        digest = hashlib.sha256(str(seeds).encode()).hexdigest()[:8]
        make_folder(self.work)
        with replacing(self.work / f"part-{seeds[0]:012d}-{digest}{self.part_suffix}", sync=sync) as file:
            self.write_part(file, seeds, images)
            return file.tell()

    def remove(self, seeds: SeedSet) -> None:
        """A file with any of ``seeds`` goes; its other images become parts first."""
        with closing(self._pieces()) as pieces:
            gone = [path for path, its in pieces.of_file.items() if len(its & seeds)]
            kept = SeedSet.union(pieces.of_file[path] for path in gone) - seeds
            for batch in kept.batches(PART):
                images = [image() for _, image in pieces.images(SeedSet.of(batch))]
                self._write_part(batch, images, sync=True)
            for path in (*gone, *pieces.broken):
                path.unlink()

    def pack(self, seeds: SeedSet) -> None:
        with closing(self._pieces()) as pieces:
            for path, its in self.divided(seeds):
                if pieces.of_file.get(path) != its:
                    with replacing(path) as file:
                        self.write_archive(file, its.array(), (image() for _, image in pieces.images(its)))
        sync_folder(self.out.parent)  # the archive is certain before the parts it is made of go
        shutil.rmtree(self.work, ignore_errors=True)

    def prepare(self) -> None:
        super().prepare()
        make_folder(self.work)

    def foreign(self) -> Iterator[Path]:
        """An archive's folder is the user's own: only what is in `work` can be foreign."""
        there: Iterable[Path] = self.work.iterdir() if self.work.is_dir() else ()
        own = chain(self._parts(), self.leftovers(), self.work.glob("*.lock"))
        yield from sorted(set(there) - set(own))
