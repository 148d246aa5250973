# SPDX-License-Identifier: Apache-2.0
"""The formats of a set of images, by the suffix of its name."""

from __future__ import annotations

from pathlib import Path

from scoresde_fast.generate.stores.arrays import NpyArchive, NpzArchive
from scoresde_fast.generate.stores.pngs import TarShards, ZipArchive
from scoresde_fast.generate.stores.store import Damage, PngFolder, Samples, Store

__all__ = ["FORMATS", "Damage", "Samples", "Store", "open_store"]

FORMATS: dict[str, type[Store]] = {
    "": PngFolder,
    ".npz": NpzArchive,
    ".zip": ZipArchive,
    ".tar": TarShards,
    ".npy": NpyArchive,
}
"""The store for each suffix of ``--out``."""


def open_store(out: Path) -> Store:
    """Return the store of the set ``out``.

    Raises:
        ValueError: no format has the suffix, or something else is at ``out``.
    """
    # A folder's name may have a dot (run-0.5); a misspelt archive must not become a folder.
    suffix = out.suffix if out.suffix[1:].isalpha() and not out.is_dir() else ""
    if suffix not in FORMATS:
        archives = ", ".join(filter(None, FORMATS))
        raise ValueError(f"--out {out}: no format has the suffix {suffix!r}; use {archives}, or none for a folder")
    return FORMATS[suffix](out)
