# SPDX-License-Identifier: Apache-2.0
"""`Store`, the interface of the storage formats of a set, and `open_store`, which chooses one by the suffix."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
from torch import Tensor

from scoresde_fast.data.codecs import Pixels
from scoresde_fast.files import sync_filesystem, temporary_name
from scoresde_fast.generate.pixels import to_uint8
from scoresde_fast.generate.seeds import EMPTY, SeedSet

Samples = npt.NDArray[Any]
"""A batch to be stored: (B, H, W, C) uint8, or (B, C, H, W) float32 in a format without rounding."""
Stored = Any
"""An image as stored: an encoded PNG (bytes), or a row of `Samples` (an array)."""


class Store(ABC):
    """The images of a set in one format; several processes may write different seeds at once.

    Creating a store writes nothing.

    Attributes:
        out: the path given by the user.
        manifest, digests, grid: paths of the set's manifest, the digests of its files, and its grid.
        work: the folder for locks and an archive's parts; it exists while a process writes the set or parts are left.
        format: name in the manifest.
        rounds: whether images are rounded to 8 bits when they are written; otherwise `read` rounds to nearest.
        max_images: limit of the number of images, or None.
    """

    format: str
    rounds = True
    max_images: int | None = None
    manifest: Path
    digests: Path
    work: Path

    def __init__(self, out: Path) -> None:
        self.out = out
        self.grid = beside(out, ".grid.png")

    def to_samples(self, images: Tensor, rounding: str) -> Tensor:
        """Convert images (B, C, H, W) in [0, 1] to the samples that `write` takes, on the same device."""
        return to_uint8(images, rounding)

    @abstractmethod
    def present(self, *, ignore_broken: bool = False) -> SeedSet:
        """Return the seeds that have an image, without reading images; fast for millions.

        Raises:
            ValueError: a file has the name of an archive but is not a valid one, unless ``ignore_broken``.
        """

    @abstractmethod
    def name_of(self, seed: int) -> str:
        """Return the name of an image in the digests."""

    @abstractmethod
    def seed_of(self, name: str) -> int | None:
        """Return the seed of an image named in the digests, or None for the name of another file."""

    @abstractmethod
    def encode(self, samples: Samples) -> Sequence[Stored]:
        """Return the images of a batch as the format stores them."""

    @abstractmethod
    def decode(self, image: Stored) -> Pixels:
        """Return a stored image as (H, W, C) uint8; raise an exception of any kind if it is corrupt."""

    @abstractmethod
    def try_load(self, seeds: SeedSet) -> Iterator[tuple[int, Stored | Exception]]:
        """Yield (seed, image as stored or the reason why it cannot be read) for the present ``seeds``, ascending."""

    def try_read(self, seeds: SeedSet) -> Iterator[tuple[int, Pixels | Exception]]:
        """Yield (seed, image (H, W, C) uint8 or the error of a damaged image) for the present ``seeds``, ascending."""
        for seed, image in self.try_load(seeds):
            yield seed, image if isinstance(image, Exception) else self.try_decode(image)

    def try_decode(self, image: Stored) -> Pixels | Exception:
        """Return a stored image as (H, W, C) uint8, or the error of a corrupt one."""
        try:
            return self.decode(image)
        except Exception as error:  # decoders raise exceptions of many kinds for corrupt bytes
            return error

    def read(self, seeds: SeedSet) -> Iterator[tuple[int, Pixels]]:
        """Yield the images as `try_read` does.

        Raises:
            ValueError: an image is damaged.
        """
        for seed, pixels in self.try_read(seeds):
            if isinstance(pixels, Exception):
                raise damaged_image(seed, self.out, pixels)
            yield seed, pixels

    @abstractmethod
    def write(self, seeds: Sequence[int], images: Sequence[Stored]) -> int:
        """Write images under their final names, creating folders, and return the number of bytes, not yet synced.

        Raises:
            OSError: a file cannot be written; the others are kept.
            ValueError: a folder of the set is a link.
        """

    @abstractmethod
    def remove(self, seeds: SeedSet, archives: Collection[Path] = ()) -> None:
        """Remove the images of ``seeds``, ``archives`` but not their other images, and archives that are unreadable."""

    def archives(self) -> list[Path]:
        """Return the existing finished archives."""
        return []

    def seeds_in(self, path: Path) -> SeedSet:
        """Return the seeds of a finished archive; other files have none."""
        return EMPTY

    @abstractmethod
    def pack(self, seeds: SeedSet, check: Callable[[int, Stored], None]) -> None:
        """Assemble the finished set of all ``seeds``, in formats that need it.

        Args:
            check: called with each image before it is copied; raises ValueError if the image is damaged.

        Raises:
            ValueError: an image is missing or damaged; nothing is changed.
        """

    def clean(self) -> None:  # noqa: B027  (most formats have no parts)
        """Remove the parts of an assembled set."""

    def sync(self) -> None:
        """Sync everything that was written to disk."""
        sync_filesystem(self.manifest.parent)

    def leftovers(self) -> Iterator[Path]:
        """Yield the incomplete files of killed runs of this set."""
        paths = map(temporary_name, (self.manifest, self.digests, self.grid))
        return (path for path in paths if os.path.lexists(path))

    def remove_leftovers(self) -> None:
        """Remove `leftovers`; no process may be writing."""
        for leftover in self.leftovers():
            leftover.unlink(missing_ok=True)

    @abstractmethod
    def foreign(self) -> Iterable[Path]:
        """Return the files, links and folders in the folder of the set that do not belong to it.

        `leftovers` may be among them; hidden files, and those that operating systems add, are not.
        """


def damaged_image(seed: int, out: Path, reason: object) -> ValueError:
    """Return the error for a damaged image of the set ``out``."""
    fix = f"scoresde-fast verify {out} --repair"
    return ValueError(f"the image of seed {seed} in {out} is damaged: {reason}; repair it: {fix}")


def open_store(out: Path) -> Store:
    """Return the store of the set ``out``.

    Raises:
        ValueError: the suffix is unknown, or ``out`` is a file instead of a folder or vice versa.
    """
    from scoresde_fast.generate.stores.arrays import NpyArchive, NpzArchive  # these modules import `Store`
    from scoresde_fast.generate.stores.pngs import PngFolder, TarShards, ZipArchive

    archives: dict[str, type[Store]] = {".npz": NpzArchive, ".zip": ZipArchive, ".tar": TarShards, ".npy": NpyArchive}
    if out.is_dir() or not (suffix := file_suffix(out)):
        return PngFolder(out)
    if suffix not in archives:
        formats = ", ".join(archives)
        raise ValueError(f"--out {out}: no format has the suffix {suffix!r}; use {formats}, or none for a folder")
    return archives[suffix](out)


def beside(out: Path, suffix: str) -> Path:
    """Return the path beside ``out`` with its name and ``suffix``: ``SET.npz`` has ``SET.npz.grid.png``.

    Raises:
        ValueError: ``out`` is the root of a file system.
    """
    named = out if out.name not in ("", "..") else out.resolve()
    if not named.name:
        raise ValueError(f"--out {out} is the root of the file system; choose a folder in it")
    return named.with_name(f"{named.name}{suffix}")


def file_suffix(out: Path) -> str:
    """Return the suffix if it has only letters and digits, and a letter (.npz, .h5), else "": run-0.5 is a folder."""
    return out.suffix if out.suffix[1:].isalnum() and not out.suffix[1:].isdecimal() else ""
