# SPDX-License-Identifier: Apache-2.0
"""Storage formats of a set of images, chosen by the suffix of its name."""

from __future__ import annotations

from pathlib import Path

from scoresde_fast.generate.stores.arrays import NpyArchive, NpzArchive
from scoresde_fast.generate.stores.pngs import PngFolder, TarShards, ZipArchive
from scoresde_fast.generate.stores.store import Damage, Samples, Store

__all__ = ["STORES", "Damage", "Samples", "Store", "open_store"]

STORES: dict[str, type[Store]] = {
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
        ValueError: the suffix is unknown, or ``out`` is a file instead of a folder or vice versa.
    """
    # A folder's name may contain a dot (run-0.5), but a misspelt archive must not become a folder.
    suffix = out.suffix if out.suffix[1:].isalpha() and not out.is_dir() else ""
    if suffix not in STORES:
        archives = ", ".join(filter(None, STORES))
        raise ValueError(f"--out {out}: no format has the suffix {suffix!r}; use {archives}, or none for a folder")
    return STORES[suffix](out)
