# SPDX-License-Identifier: Apache-2.0
"""A set of images as one file: ``.npz`` for programs, ``.zip`` of PNGs for both programs and people."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np

from scoresde_fast.data.png import Pixels, decode_png
from scoresde_fast.files import replacing, sync_folder, unfinished
from scoresde_fast.generate.folder import PngFolder, png_name, png_seed


class Archive(PngFolder, ABC):
    """``SET.npz`` beside ``SET.samples.json`` and ``SET.grid.png``.

    Images wait as PNGs in the folder ``SET.npz.partial`` until the run is complete; then they become the archive at
    once. A finished archive that is to grow is unpacked there again.
    """

    def __init__(self, out: Path) -> None:
        if out.is_dir():
            raise ValueError(f"{out} is a folder; an archive needs another --out")
        self.out = out
        self.manifest = out.with_name(f"{out.stem}.samples.json")
        self.grid = out.with_name(f"{out.stem}.grid.png")
        self.folder = out.with_name(f"{out.name}.partial")
        self._packed = self._seeds_in_archive() if out.exists() else set()
        self.finished = self._packed | self._seeds_in_folder()

    @abstractmethod
    def _pack(self, file: BinaryIO, seeds: list[int]) -> None:
        """Write the waiting images of ``seeds`` as an archive, the same bytes for the same images."""

    @abstractmethod
    def _unpack_seeds(self) -> Iterable[int]:
        """The seeds of the archive."""

    @abstractmethod
    def _unpack(self, seeds: set[int]) -> Iterator[tuple[int, Pixels]]:
        """The images of ``seeds`` in the archive."""

    def read(self, seeds: Iterable[int]) -> Iterator[tuple[int, Pixels]]:
        wanted = set(seeds)
        waiting = wanted & self._seeds_in_folder()
        yield from super().read(waiting)
        if wanted > waiting:
            yield from self._unpack(wanted - waiting)

    def close(self, order: Iterable[int]) -> None:
        waiting = self._seeds_in_folder()
        if waiting - self._packed:
            for seed, pixels in self.read(self._packed - waiting):
                self.write(seed, pixels)
            with replacing(self.out) as file:
                self._pack(file, [seed for seed in order if seed in self.finished])
            sync_folder(self.out.parent)  # the archive is certain before the images it is made of go
            self._packed = set(self.finished)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _seeds_in_archive(self) -> set[int]:
        try:
            return {int(seed) for seed in self._unpack_seeds()}
        except (BadZipFile, EOFError, KeyError, ValueError) as error:
            raise ValueError(
                f"{self.out} is no archive of samples ({error}); move it or choose another --out"
            ) from error

    def _leftovers(self) -> list[Path]:
        return [*super()._leftovers(), *map(unfinished, (self.out, self.manifest, self.grid))]


class NpzArchive(Archive):
    """``arr_0`` (N, H, W, C) uint8 and ``seeds`` (N,) int64, the layout FID programs read."""

    format = "npz"

    def _pack(self, file: BinaryIO, seeds: list[int]) -> None:
        shape = self.decode(seeds[0]).shape
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(seeds), *shape)}
        with ZipFile(file, "w") as archive:
            # image by image, so that a large set never stands in memory; ZipInfo's date is fixed
            with archive.open(ZipInfo("arr_0.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for seed in seeds:
                    member.write(self.decode(seed).tobytes())
            with archive.open(ZipInfo("seeds.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.array(seeds, dtype=np.int64), allow_pickle=False)

    def _unpack_seeds(self) -> Iterable[int]:
        with np.load(self.out, allow_pickle=False) as archive:
            return list(archive["seeds"].tolist())

    def _unpack(self, seeds: set[int]) -> Iterator[tuple[int, Pixels]]:
        with np.load(self.out, allow_pickle=False) as archive:
            for seed, pixels in zip(archive["seeds"].tolist(), archive["arr_0"], strict=True):
                if seed in seeds:
                    yield seed, pixels


class ZipArchive(Archive):
    """``000000.png, ...`` stored without a second compression."""

    format = "zip"

    def _pack(self, file: BinaryIO, seeds: list[int]) -> None:
        with ZipFile(file, "w") as archive:
            for seed in seeds:
                name = png_name(seed)
                archive.writestr(ZipInfo(name), (self.folder / name).read_bytes())  # ZipInfo's date is fixed

    def _unpack_seeds(self) -> Iterable[int]:
        with ZipFile(self.out) as archive:
            return [seed for name in archive.namelist() if (seed := png_seed(name)) is not None]

    def _unpack(self, seeds: set[int]) -> Iterator[tuple[int, Pixels]]:
        with ZipFile(self.out) as archive:
            for seed in seeds:
                yield seed, decode_png(archive.read(png_name(seed)))
