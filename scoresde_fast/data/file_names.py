# SPDX-License-Identifier: Apache-2.0
"""Names of files: which are images, which belong to an operating system, and which are passed over."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from scoresde_fast.errors import DataWarning

SUFFIXES = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_SYSTEM_FILES = ("desktop.ini", "ehthumbs.db", "thumbs.db")
"""Files that Windows adds to folders."""


def is_image(name: str) -> bool:
    """Return whether a file has an image's suffix, and `is_ignored` is false."""
    return name.lower().endswith(SUFFIXES) and not is_ignored(name)


def is_ignored(name: str) -> bool:
    """Return whether a file is hidden, or one that macOS or Windows adds to folders and archives."""
    parts = [part for part in name.split("/") if part not in (".", "..")]
    return any(part.startswith((".", "__MACOSX")) or part.lower() in _SYSTEM_FILES for part in parts)


class PassedOver:
    """Counts files that are no images.

    Args:
        names: their names; files for which `is_ignored` is true are not counted.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._first = ""
        self._counts: Counter[str] = Counter()
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        """Count a file."""
        if not is_ignored(name):
            self._first = self._first or name
            self._counts[PurePosixPath(name).suffix.lower() or "no suffix"] += 1

    def __str__(self) -> str:
        """Say how many files are passed over, or return ""."""
        if not (count := self._counts.total()):
            return ""
        kinds = ", ".join(f"{number} {suffix}" for suffix, number in self._counts.most_common(5))
        more = ", ..." if len(self._counts) > 5 else ""
        verb = "files are" if count > 1 else "file is"
        return (
            f"{count} {verb} passed over ({kinds}{more}), the first is {self._first}; images are {', '.join(SUFFIXES)}"
        )

    def warn(self, source: str) -> None:
        """Warn if there are any."""
        if self._counts:
            warnings.warn(f"{source}: {self}", DataWarning, stacklevel=2)
