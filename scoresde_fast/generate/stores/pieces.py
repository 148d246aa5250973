# SPDX-License-Identifier: Apache-2.0
"""Several files of images, looked at as one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np

from scoresde_fast.generate.seed_set import Integers, SeedSet

OPEN = 8
"""Files that are open at once: a set's parts have their seeds in order, but for those of interrupted runs."""
DAMAGED = (BadZipFile, EOFError, KeyError, ValueError)
"""What reading raises of a file that is none, or not whole."""


class Piece(Protocol):
    """An open file of images.

    Attributes:
        seeds: (N,) whose images they are.
    """

    seeds: Integers

    def image(self, place: int) -> Any:
        """That of ``seeds[place]``, as the file keeps it; raises one of `DAMAGED` where that cannot be."""

    def close(self) -> None: ...


class Pieces:
    """The images of files, each from the first file that has it; to be closed.

    Args:
        openers: how each file is opened.

    Attributes:
        seeds: those of all files.
        of_file: those of each file.
        broken: files that cannot be read, and why.
    """

    def __init__(self, openers: Mapping[Path, Callable[[], Piece]]) -> None:
        self._openers = list(openers.values())
        self._open: OrderedDict[int, Piece] = OrderedDict()
        self.of_file: dict[Path, SeedSet] = {}
        self.broken: dict[Path, str] = {}
        seeds: list[Integers] = [np.zeros(0, np.int64)]
        files, places = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        for file, path in enumerate(openers):
            try:
                found = self._piece(file).seeds
            except DAMAGED as error:
                self.broken[path] = str(error)
                continue
            self.of_file[path] = SeedSet.merged(found, found)
            seeds.append(found)
            files.append(np.full(len(found), file, np.int32))
            places.append(np.arange(len(found), dtype=np.int32))
        together = np.concatenate(seeds)
        self._seeds, first = np.unique(together, return_index=True)
        self._files, self._places = np.concatenate(files)[first], np.concatenate(places)[first]
        self.seeds = SeedSet.union(self.of_file.values())

    def images(self, seeds: SeedSet) -> Iterator[tuple[int, Callable[[], Any]]]:
        """(seed, what reads its image) for those of ``seeds`` that are there, ascending."""
        wanted = (seeds & self.seeds).array()
        for seed, at in zip(wanted.tolist(), np.searchsorted(self._seeds, wanted).tolist(), strict=True):
            yield seed, lambda at=at: self._piece(int(self._files[at])).image(int(self._places[at]))  # type: ignore[misc]

    def _piece(self, file: int) -> Piece:
        if file not in self._open:
            self._open[file] = self._openers[file]()
            if len(self._open) > OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(file)
        return self._open[file]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()
