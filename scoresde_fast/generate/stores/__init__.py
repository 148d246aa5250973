# SPDX-License-Identifier: Apache-2.0
"""`Store`, the interface of the storage formats of a set, and `open_store`, which chooses one by the suffix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy.typing as npt
from torch import Tensor

from scoresde_fast.data.codecs import Pixels
from scoresde_fast.files import UNFINISHED, sync_filesystem
from scoresde_fast.generate.pixels import to_uint8
from scoresde_fast.generate.seeds import SeedSet

Samples = npt.NDArray[Any]
"""A batch as stored: (B, H, W, C) uint8, or (B, C, H, W) float32 in a format without rounding."""


class Store(ABC):
    """The images of a set in one format; several processes may write different seeds at once.

    Creating a store writes nothing.

    Attributes:
        out: the path given by the user.
        manifest, grid: paths of the set's manifest and grid.
        work: the folder for locks and an archive's parts; it exists while a process writes the set or parts are left.
        format: name in the manifest.
        rounds: whether images are rounded to 8 bits when they are written; otherwise `read` rounds to nearest.
        max_images: limit of the number of images, or None.
    """

    format: str
    rounds = True
    max_images: int | None = None
    manifest: Path
    grid: Path
    work: Path

    def __init__(self, out: Path) -> None:
        self.out = out

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
    def try_read(self, seeds: SeedSet) -> Iterator[tuple[int, Pixels | Exception]]:
        """Yield (seed, image (H, W, C) uint8 or the error of a damaged image) for the present ``seeds``, ascending."""

    def read(self, seeds: SeedSet) -> Iterator[tuple[int, Pixels]]:
        """Yield the images as `try_read` does.

        Raises:
            ValueError: an image is damaged.
        """
        for seed, pixels in self.try_read(seeds):
            if isinstance(pixels, Exception):
                raise ValueError(f"the image of seed {seed} in {self.out} is damaged: {pixels}")
            yield seed, pixels

    def damaged(self, seeds: SeedSet) -> SeedSet:
        """Return the present ``seeds`` with an image that cannot be read."""
        return SeedSet.of(seed for seed, pixels in self.try_read(seeds) if isinstance(pixels, Exception))

    @abstractmethod
    def write(self, seeds: list[int], samples: Samples) -> int:
        """Write images under their final names, creating folders, and return the number of bytes, not yet synced.

        Raises:
            OSError: a file cannot be written; the others are kept.
        """

    @abstractmethod
    def remove(self, seeds: SeedSet) -> None:
        """Remove the images of ``seeds``, and archives that cannot be read at all."""

    @abstractmethod
    def pack(self, seeds: SeedSet) -> None:
        """Assemble the finished set of all ``seeds``, in formats that need it.

        Raises:
            ValueError: an image is missing; nothing is changed.
        """

    def sync(self) -> None:
        """Sync everything that was written to disk."""
        sync_filesystem(self.manifest.parent)

    def folders(self) -> Iterable[Path]:
        """Return the folders with files of the set, except `work`."""
        return [self.manifest.parent]

    def leftovers(self) -> Iterator[Path]:
        """Yield the incomplete files of killed runs."""
        return chain.from_iterable(folder.glob(f".*{UNFINISHED}") for folder in (*self.folders(), self.work))

    def remove_leftovers(self) -> None:
        """Remove `leftovers`; no process may be writing."""
        for leftover in self.leftovers():
            leftover.unlink(missing_ok=True)

    @abstractmethod
    def foreign(self) -> Iterable[Path]:
        """Return the files in the folder of the set that do not belong to it; `leftovers` may be among them."""


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


def file_suffix(out: Path) -> str:
    """Return the suffix if it has only letters and digits, and a letter (.npz, .h5), else "": run-0.5 is a folder."""
    return out.suffix if out.suffix[1:].isalnum() and not out.suffix[1:].isdecimal() else ""
