# SPDX-License-Identifier: Apache-2.0
"""`Store`: the interface of all storage formats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy.typing as npt
from torch import Tensor

from scoresde_fast.data.codecs import Pixels
from scoresde_fast.files import UNFINISHED, make_folder, sync_filesystem
from scoresde_fast.generate.pixels import to_pixels, to_uint8
from scoresde_fast.generate.seeds import SeedSet

Samples = npt.NDArray[Any]
"""A batch as stored: (B, H, W, C) uint8, or (B, C, H, W) float32 in a format without rounding."""


@dataclass(frozen=True)
class Damage:
    """The reason why an image cannot be read, in place of the image."""

    reason: str


class Store(ABC):
    """The images of a set in one format; several processes may write different seeds.

    Creating a store writes nothing.

    Attributes:
        out: the path given by the user.
        manifest, grid: paths of the set's manifest and grid.
        work: the folder for locks and an archive's parts; it is removed when the set is complete.
        format: name in the manifest.
        rounds: whether images are rounded to 8 bits.
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

    def to_pixels(self, image: Tensor, rounding: str) -> Pixels:
        """Return an image (C, H, W) in [0, 1] as `read` yields it after it is written."""
        return to_pixels(image[None], rounding)[0]

    @abstractmethod
    def present(self, *, ignore_broken: bool = False) -> SeedSet:
        """Return the seeds that have an image, without reading images; fast for millions.

        Raises:
            ValueError: a file has the name of an archive but is not a valid one, unless ``ignore_broken``.
        """

    @abstractmethod
    def look(self, seeds: SeedSet) -> Iterator[tuple[int, Pixels | Damage]]:
        """Yield (seed, image (H, W, C) uint8 or its damage) for those ``seeds`` that are present, ascending."""

    def read(self, seeds: SeedSet) -> Iterator[tuple[int, Pixels]]:
        """Yield as `look`, but raise for damaged images.

        Raises:
            ValueError: an image is damaged.
        """
        for seed, pixels in self.look(seeds):
            if isinstance(pixels, Damage):
                raise ValueError(f"the image of seed {seed} in {self.out} is damaged: {pixels.reason}")
            yield seed, pixels

    def damaged(self, seeds: SeedSet) -> SeedSet:
        """Return those present ``seeds`` whose images cannot be read."""
        return SeedSet.of(seed for seed, pixels in self.look(seeds) if isinstance(pixels, Damage))

    @abstractmethod
    def write(self, seeds: list[int], samples: Samples) -> int:
        """Write images under their final names and return the number of bytes; `sync` makes them durable.

        Raises:
            OSError: a file cannot be written; the others are kept.
        """

    @abstractmethod
    def remove(self, seeds: SeedSet) -> None:
        """Remove the images of ``seeds``, and archives that cannot be read at all."""

    @abstractmethod
    def pack(self, seeds: SeedSet) -> None:
        """Assemble the finished set of all ``seeds``, in formats that need it."""

    def is_packed(self) -> bool:
        """Return whether `pack` has nothing to do, no process is writing, and none was killed."""
        return not self.work.exists()

    def prepare(self) -> None:
        """Create the folders for `write`."""
        make_folder(self.manifest.parent)

    def sync(self) -> None:
        """Sync everything that was written to disk."""
        sync_filesystem(self.manifest.parent)

    def folders(self) -> Iterable[Path]:
        """Return the folders with files of the set, except `work`."""
        return [self.manifest.parent]

    def leftovers(self) -> Iterator[Path]:
        """Yield the incomplete files of killed runs."""
        existing = (folder for folder in (*self.folders(), self.work) if folder.is_dir())
        return chain.from_iterable(folder.glob(f".*{UNFINISHED}") for folder in existing)

    def remove_leftovers(self) -> None:
        """Remove `leftovers`; no process may be writing."""
        for leftover in self.leftovers():
            leftover.unlink(missing_ok=True)

    @abstractmethod
    def foreign(self) -> Iterator[Path]:
        """Yield the files in the folder of the set that do not belong to the set."""
