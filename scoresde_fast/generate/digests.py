# SPDX-License-Identifier: Apache-2.0
"""The SHA-256 of every image and archive of a set, in a text file that ``sha256sum --check`` reads.

While the set is written, lines are appended; of several lines for an image the last one counts.  A line that a crash
of the machine left incomplete is ignored: its image is not recorded as done, so the next run checks it again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import SEEK_END
from pathlib import Path

import numpy as np

from scoresde_fast.files import appending, read_file, replacing
from scoresde_fast.generate.seeds import SeedSet
from scoresde_fast.generate.stores import Store, Stored

BLOCK = 1 << 20
"""Bytes of a file that are read at once."""
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)\n", re.ASCII)


def digest(image: Stored) -> str:
    """Return the SHA-256 of an image as it is stored."""
    return hashlib.sha256(memoryview(image).cast("B")).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    sha256 = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(BLOCK):
            sha256.update(block)
    return sha256.hexdigest()


@dataclass
class Digests:
    """The SHA-256 of each image by seed, and of each archive by file name."""

    images: dict[int, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, store: Store) -> Digests:
        """Read the digests of a set; there are none if it has no such file, and damaged lines are ignored."""
        digests = cls()
        try:
            text = read_file(store.digests).decode(errors="surrogateescape")
        except (FileNotFoundError, ValueError):  # a link or special file in its place has no digests
            return digests
        for match in _LINE.finditer(text):
            value, name = match.groups()
            if (seed := store.seed_of(name)) is None:
                digests.files[name] = value
            else:
                digests.images[seed] = value
        return digests

    def seeds(self) -> SeedSet:
        """Return the seeds of the images."""
        return SeedSet.of_array(np.fromiter(self.images, np.int64))

    def finished(self, seeds: SeedSet, archives: Iterable[Path]) -> Digests:
        """Return the digests of a finished set of ``seeds`` with ``archives``."""
        images = {seed: self.images[seed] for seed in seeds if seed in self.images}
        return Digests(images, {path.name: file_digest(path) for path in archives})

    def content(self, store: Store) -> bytes:
        """Return the content of the file, in the order of the seeds."""
        names = {store.name_of(seed): self.images[seed] for seed in sorted(self.images)}
        return _lines({**names, **dict(sorted(self.files.items()))})

    def write(self, store: Store) -> None:
        """Write the file, atomically; do nothing if it has this content already."""
        content = self.content(store)
        if not store.digests.is_file() or store.digests.read_bytes() != content:
            with replacing(store.digests) as file:
                file.write(content)


def append_digests(store: Store, digests: Mapping[int, str]) -> None:
    """Append digests of images and sync them to disk; only one process may do so at a time."""
    with appending(store.digests) as file:
        if file.tell():
            file.seek(-1, SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")  # ends a line that a crash left incomplete
        file.write(_lines({store.name_of(seed): value for seed, value in digests.items()}))


def _lines(digests: Mapping[str, str]) -> bytes:
    return "".join(f"{value}  {name}\n" for name, value in digests.items()).encode(errors="surrogateescape")
