# SPDX-License-Identifier: Apache-2.0
"""What every format of a set can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy.typing as npt
from torch import Tensor

from scoresde_fast.data.png import Pixels
from scoresde_fast.files import UNFINISHED, make_folder, sync_filesystem
from scoresde_fast.generate.pixels import to_levels, to_pixels
from scoresde_fast.generate.seed_set import SeedSet

Samples = npt.NDArray[Any]
"""What is stored of a batch: (B, H, W, C) uint8, or of a format of numbers (B, C, H, W) float32."""


@dataclass(frozen=True)
class Damage:
    """In the place of an image that cannot be read: why."""

    reason: str


class Store(ABC):
    """Where the images of a set are. Making the object only looks; several processes may write different seeds.

    Attributes:
        out: what the user named.
        manifest, grid: where the set's description and picture are.
        work: the folder of locks, and of what an archive is made of; it goes when the set is complete.
        format: its name in the description.
        rounds: whether the samples are 8-bit levels.
        most: images that it takes; None: any number.
    """

    format: str
    rounds = True
    most: int | None = None
    manifest: Path
    grid: Path
    work: Path

    def __init__(self, out: Path) -> None:
        self.out = out

    def levels(self, image: Tensor, rounding: str) -> Pixels:
        """What `read` gives of an image (C, H, W) in [0, 1] that was written."""
        return to_pixels(image[None], rounding)[0]

    def to_samples(self, images: Tensor, rounding: str) -> Tensor:
        """(B, C, H, W) float in [0, 1] -> what `write` takes, on the device of the images."""
        return to_levels(images, rounding)

    @abstractmethod
    def present(self, *, broken: bool = False) -> SeedSet:
        """The seeds whose images are there by their names, whole or not; fast for millions.

        Raises:
            ValueError: a file in the place of an archive is none, and not even ``broken`` ones are expected.
        """

    @abstractmethod
    def look(self, seeds: SeedSet) -> Iterator[tuple[int, Pixels | Damage]]:
        """(seed, its image as levels (H, W, C) uint8) for each of the ``seeds`` present, ascending."""

    def read(self, seeds: SeedSet) -> Iterator[tuple[int, Pixels]]:
        """The same where every image is sound.

        Raises:
            ValueError: one is not.
        """
        for seed, pixels in self.look(seeds):
            if isinstance(pixels, Damage):
                raise ValueError(f"the image of seed {seed} in {self.out} {pixels.reason}")
            yield seed, pixels

    def damaged(self, seeds: SeedSet) -> SeedSet:
        """Those of the ``seeds`` present whose images cannot be read."""
        return SeedSet.of(seed for seed, pixels in self.look(seeds) if isinstance(pixels, Damage))

    @abstractmethod
    def write(self, seeds: list[int], samples: Samples) -> int:
        """Keep images under their final names; bytes written.  Certain to stay after `sync`.

        Raises:
            OSError: a file cannot be written; the others are kept.
        """

    @abstractmethod
    def remove(self, seeds: SeedSet) -> None:
        """Take the images of ``seeds`` away, and what else is past reading with them."""

    @abstractmethod
    def pack(self, seeds: SeedSet) -> None:
        """All ``seeds`` are there: put them together, where that is needed."""

    def tidy(self) -> bool:
        """Whether nothing waits for `pack`, and nobody is at work or was killed at it."""
        return not self.work.exists()

    def prepare(self) -> None:
        """Make the folders that are written to."""
        make_folder(self.manifest.parent)

    def sync(self) -> None:
        """Put all that was written on the disk."""
        sync_filesystem(self.manifest.parent)

    def folders(self) -> Iterable[Path]:
        """Those that have files of the set, but for `work`."""
        return [self.manifest.parent]

    def leftovers(self) -> Iterator[Path]:
        """What killed runs left half-written."""
        here = (folder for folder in (*self.folders(), self.work) if folder.is_dir())
        return chain.from_iterable(folder.glob(f".*{UNFINISHED}") for folder in here)

    def sweep(self) -> None:
        """Remove `leftovers`, while nobody writes."""
        for leftover in self.leftovers():
            leftover.unlink(missing_ok=True)

    @abstractmethod
    def foreign(self) -> Iterator[Path]:
        """Files in the set's own folder that are none of the set's."""
