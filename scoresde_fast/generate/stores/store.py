# SPDX-License-Identifier: Apache-2.0
"""What every format of a set can do, and the simplest one: a folder of PNGs."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy.typing as npt
from torch import Tensor

from scoresde_fast.data.codecs import Pixels, decode_intact_png, encode_png
from scoresde_fast.files import UNFINISHED, make_folder, sync_filesystem, write_whole
from scoresde_fast.generate.pixels import to_pixels, to_uint8
from scoresde_fast.generate.seeds import SeedSet

Samples = npt.NDArray[Any]
"""A batch as it is stored: (B, H, W, C) uint8, or (B, C, H, W) float32 in a format of numbers."""
PER_FOLDER = 1000
_PNG = re.compile(r"(\d{6,})\.png", re.ASCII)
_FOLDER = re.compile(r"\d{3,}", re.ASCII)


@dataclass(frozen=True)
class Damage:
    """Stands for an image that cannot be read, with the reason."""

    reason: str


class Store(ABC):
    """The images of a set in one format. Creating a store writes nothing; several processes may write other seeds.

    Attributes:
        out: the path that the user named.
        manifest, grid: paths of the set's manifest and grid.
        work: the folder of locks, and of an archive's parts; it goes when the set is complete.
        format: name in the manifest.
        rounds: whether the samples are 8-bit.
        most: largest number of images; None: no limit.
    """

    format: str
    rounds = True
    most: int | None = None
    manifest: Path
    grid: Path
    work: Path

    def __init__(self, out: Path) -> None:
        self.out = out

    def to_samples(self, images: Tensor, rounding: str) -> Tensor:
        """(B, C, H, W) float in [0, 1] -> the argument of `write`, on the device of the images."""
        return to_uint8(images, rounding)

    def to_pixels(self, image: Tensor, rounding: str) -> Pixels:
        """Return what `read` yields for an image (C, H, W) in [0, 1] once it is written."""
        return to_pixels(image[None], rounding)[0]

    @abstractmethod
    def present(self, *, broken: bool = False) -> SeedSet:
        """Return the seeds with an image, judged by names alone; fast for millions.

        Raises:
            ValueError: a file has the name of an archive but is not one; ``broken`` ignores it.
        """

    @abstractmethod
    def look(self, seeds: SeedSet) -> Iterator[tuple[int, Pixels | Damage]]:
        """Yield (seed, image (H, W, C) uint8) of those ``seeds`` that are present, ascending."""

    def read(self, seeds: SeedSet) -> Iterator[tuple[int, Pixels]]:
        """Yield as `look`, where every image is expected to be intact.

        Raises:
            ValueError: an image is damaged.
        """
        for seed, pixels in self.look(seeds):
            if isinstance(pixels, Damage):
                raise ValueError(f"the image of seed {seed} in {self.out} {pixels.reason}")
            yield seed, pixels

    def damaged(self, seeds: SeedSet) -> SeedSet:
        """Return those present ``seeds`` whose images cannot be read."""
        return SeedSet.of(seed for seed, pixels in self.look(seeds) if isinstance(pixels, Damage))

    @abstractmethod
    def write(self, seeds: list[int], samples: Samples) -> int:
        """Write images under their final names, and return the number of bytes; `sync` makes them durable.

        Raises:
            OSError: a file cannot be written; the others are kept.
        """

    @abstractmethod
    def remove(self, seeds: SeedSet) -> None:
        """Remove the images of ``seeds``, and files that cannot be read at all."""

    @abstractmethod
    def pack(self, seeds: SeedSet) -> None:
        """Assemble the finished set of all ``seeds``, in formats that need it."""

    def tidy(self) -> bool:
        """Return whether nothing waits for `pack`, no process is at work, and none was killed."""
        return not self.work.exists()

    def prepare(self) -> None:
        """Create the folders that are written to."""
        make_folder(self.manifest.parent)

    def sync(self) -> None:
        """Force everything that was written to the disk."""
        sync_filesystem(self.manifest.parent)

    def folders(self) -> Iterable[Path]:
        """Return the folders with files of the set, except `work`."""
        return [self.manifest.parent]

    def leftovers(self) -> Iterator[Path]:
        """Yield the half-written files of killed runs."""
        existing = (folder for folder in (*self.folders(), self.work) if folder.is_dir())
        return chain.from_iterable(folder.glob(f".*{UNFINISHED}") for folder in existing)

    def sweep(self) -> None:
        """Remove `leftovers`; no process may be writing."""
        for leftover in self.leftovers():
            leftover.unlink(missing_ok=True)

    @abstractmethod
    def foreign(self) -> Iterator[Path]:
        """Yield the files in the set's folder that do not belong to the set."""


class PngFolder(Store):
    """``OUT/000/000000.png, ...``, a thousand seeds to a folder, with ``OUT/samples.json`` and ``OUT/grid.png``.

    Raises:
        ValueError: ``out`` is a file.
    """

    format = "png"

    def __init__(self, out: Path) -> None:
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file, and without a suffix --out is a folder of PNGs; choose another")
        super().__init__(out)
        self.manifest = out / "samples.json"
        self.grid = out / "grid.png"
        self.work = out / ".work"

    def present(self, *, broken: bool = False) -> SeedSet:
        return SeedSet.of(chain.from_iterable(map(_seeds_in, self._thousands())))

    def look(self, seeds: SeedSet) -> Iterator[tuple[int, Pixels | Damage]]:
        for seed in seeds:
            try:
                yield seed, decode_intact_png(self._path(seed).read_bytes())
            except FileNotFoundError:
                continue
            except ValueError as error:
                yield seed, Damage(str(error))

    def write(self, seeds: list[int], samples: Samples) -> int:
        written, out = 0, str(self.out)
        for thousand in {seed // PER_FOLDER for seed in seeds}:
            make_folder(self.out / f"{thousand:03d}")
        for seed, pixels in zip(seeds, samples, strict=True):
            png = encode_png(pixels)
            write_whole(f"{out}/{seed // PER_FOLDER:03d}/{png_name(seed)}", png)
            written += len(png)
        return written

    def remove(self, seeds: SeedSet) -> None:
        for seed in seeds:
            self._path(seed).unlink(missing_ok=True)

    def pack(self, seeds: SeedSet) -> None:
        """Do nothing: the images are the set."""

    def folders(self) -> Iterable[Path]:
        return [*super().folders(), *self._thousands()]

    def foreign(self) -> Iterator[Path]:
        for folder, folders, names in os.walk(self.out):
            if Path(folder) == self.work:
                folders.clear()
                continue
            for name in names:
                path, seed = Path(folder, name), png_seed(name)
                if path not in (self.manifest, self.grid) and (seed is None or path != self._path(seed)):
                    yield path

    def _path(self, seed: int) -> Path:
        return self.out / f"{seed // PER_FOLDER:03d}" / png_name(seed)

    def _thousands(self) -> list[Path]:
        if not self.out.is_dir():
            return []
        return [Path(entry.path) for entry in os.scandir(self.out) if _FOLDER.fullmatch(entry.name) and entry.is_dir()]


def png_name(seed: int) -> str:
    """Return the file name of a seed's image."""
    return f"{seed:06d}.png"


def png_seed(name: str) -> int | None:
    """Return the seed whose image has the file name ``name``; None for other files."""
    match = _PNG.fullmatch(name)
    seed = int(match[1]) if match else -1
    return seed if match and png_name(seed) == name else None


def _seeds_in(folder: Path) -> Iterator[int]:
    """Yield the seeds of the images that belong in a folder of a thousand."""
    thousand = int(folder.name)
    for seed in map(png_seed, os.listdir(folder)):
        if seed is not None and seed // PER_FOLDER == thousand:
            yield seed
