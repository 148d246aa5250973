# SPDX-License-Identifier: Apache-2.0
"""A set of images as a folder of PNGs named by seed, a thousand to a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from scoresde_fast.data.png import Pixels
from scoresde_fast.files import make_folder, write_whole
from scoresde_fast.generate.pixels import decode_own_png, encode_png
from scoresde_fast.generate.seed_set import SeedSet
from scoresde_fast.generate.stores.store import Damage, Samples, Store

PER_FOLDER = 1000
_NAME = re.compile(r"(\d{6,})\.png", re.ASCII)
_FOLDER = re.compile(r"\d{3,}", re.ASCII)


def png_name(seed: int) -> str:
    return f"{seed:06d}.png"


def png_seed(name: str) -> int | None:
    """The seed whose image ``name`` is, None if it is another file."""
    match = _NAME.fullmatch(name)
    seed = int(match[1]) if match else -1
    return seed if match and png_name(seed) == name else None


def folder_name(thousand: int) -> str:
    return f"{thousand:03d}"


class PngFolder(Store):
    """``OUT/000/000000.png, ...`` with ``OUT/samples.json`` and ``OUT/grid.png``.

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

    def path(self, seed: int) -> Path:
        """Where the image of a seed is."""
        return self.out / folder_name(seed // PER_FOLDER) / png_name(seed)

    def present(self, *, broken: bool = False) -> SeedSet:
        return SeedSet.of(chain.from_iterable(map(_seeds_in, self._thousands())))

    def look(self, seeds: SeedSet) -> Iterator[tuple[int, Pixels | Damage]]:
        for seed in seeds:
            try:
                yield seed, decode_own_png(self.path(seed).read_bytes())
            except FileNotFoundError:  # not present, or no more
                continue
            except ValueError as error:
                yield seed, Damage(str(error))

    def write(self, seeds: list[int], samples: Samples) -> int:
        written, out = 0, str(self.out)
        for thousand in {seed // PER_FOLDER for seed in seeds}:
            make_folder(self.out / folder_name(thousand))
        for seed, pixels in zip(seeds, samples, strict=True):
            png = encode_png(pixels)
            write_whole(f"{out}/{folder_name(seed // PER_FOLDER)}/{png_name(seed)}", png)
            written += len(png)
        return written

    def remove(self, seeds: SeedSet) -> None:
        for seed in seeds:
            self.path(seed).unlink(missing_ok=True)

    def pack(self, seeds: SeedSet) -> None:
        """Every image is a file of its own already."""

    def folders(self) -> Iterable[Path]:
        return [*super().folders(), *self._thousands()]

    def _thousands(self) -> list[Path]:
        if not self.out.is_dir():
            return []
        return [Path(entry.path) for entry in os.scandir(self.out) if _FOLDER.fullmatch(entry.name) and entry.is_dir()]

    def foreign(self) -> Iterator[Path]:
        for folder, folders, names in os.walk(self.out):
            if Path(folder) == self.work:
                folders.clear()
                continue
            for name in names:
                path, seed = Path(folder, name), png_seed(name)
                if path not in (self.manifest, self.grid) and (seed is None or path != self.path(seed)):
                    yield path


def _seeds_in(folder: Path) -> Iterator[int]:
    """The seeds of the images in a folder that belong there."""
    thousand = int(folder.name)
    for name in os.listdir(folder):
        seed = png_seed(name)
        if seed is not None and seed // PER_FOLDER == thousand:
            yield seed
