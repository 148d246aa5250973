# SPDX-License-Identifier: Apache-2.0
"""A set of images as a folder of PNGs named by seed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from scoresde_fast.data.png import Pixels, decode_png
from scoresde_fast.files import UNFINISHED, make_folder, replacing
from scoresde_fast.generate.pixels import encode_png

_NAME = re.compile(r"(\d{6,})\.png", re.ASCII)


def png_name(seed: int) -> str:
    return f"{seed:06d}.png"


def png_seed(name: str) -> int | None:
    """The seed whose image ``name`` is, None if it is another file."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


class PngFolder:
    """``OUT/000000.png, ...`` with ``OUT/samples.json`` and ``OUT/grid.png``.

    Making the object only looks; the other methods write.

    Attributes:
        out: what the user named.
        manifest, grid: where the set's description and picture are.
        finished: the seeds whose images are whole.
    """

    format = "png"

    def __init__(self, out: Path) -> None:
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file, and without a suffix --out is a folder of PNGs; choose another")
        self.out = out
        self.manifest = out / "samples.json"
        self.grid = out / "grid.png"
        self.folder = out
        self.finished = self._seeds_in_folder()

    def open(self) -> None:
        """Make the folder that images are written to."""
        make_folder(self.folder)

    def clean(self) -> None:
        """Remove what a killed run left half-written."""
        for leftover in self._leftovers():
            leftover.unlink(missing_ok=True)

    def write(self, seed: int, pixels: Pixels) -> None:
        """Keep one image, (H, W, C) uint8, as a whole file."""
        png = encode_png(pixels)
        with replacing(self.folder / png_name(seed)) as file:
            file.write(png)
        self.finished.add(seed)

    def read(self, seeds: Iterable[int]) -> Iterator[tuple[int, Pixels]]:
        """(seed, its finished image) for each of ``seeds``, in any order."""
        for seed in seeds:
            yield seed, self.decode(seed)

    def decode(self, seed: int) -> Pixels:
        """The image of a seed in the folder.

        Raises:
            ValueError: its file is damaged, or is another's.
        """
        path = self.folder / png_name(seed)
        try:
            return decode_png(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} {error}") from error

    def close(self, order: Iterable[int]) -> None:
        """The run is complete; an archive is put together here, its images in ``order``."""

    def _seeds_in_folder(self) -> set[int]:
        if not self.folder.is_dir():
            return set()
        return {seed for path in self.folder.iterdir() if (seed := png_seed(path.name)) is not None}

    def _leftovers(self) -> list[Path]:
        return list(self.folder.glob(f".*{UNFINISHED}"))
