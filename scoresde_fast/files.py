# SPDX-License-Identifier: Apache-2.0
"""Files that appear as a whole or not at all, and their way to the disk."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".unfinished"
"""Suffix of the hidden name that a file has until all its bytes are written."""
SYNCS_LATER = hasattr(os, "sync")
"""Whether the system can sync many files at once. Windows cannot; there each file is synced as it is written."""


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a binary file that becomes ``path`` when the block succeeds; a failing block leaves ``path`` as it was.

    Without ``sync`` a crash of the machine, not of the program, may leave ``path`` with missing bytes until
    `sync_filesystem` is called.

    Raises:
        OSError: the file cannot be written (disk full, read-only, ...); the message names ``path`` and what to do.
    """
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            if sync or not SYNCS_LATER:
                os.fsync(file.fileno())  # before the rename: a crash must not leave the final name on missing bytes
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise not_written(path, error) from error
        raise


def write_whole(path: str, content: bytes) -> None:
    """Write ``content`` as `replacing` does without sync, faster for many small files.

    Raises:
        OSError: as `replacing`.
    """
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}{UNFINISHED}"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            if not SYNCS_LATER:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise not_written(Path(path), error) from error


def make_folder(path: Path) -> None:
    """Create ``path`` and its missing parents; raise OSError as `replacing` does."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        if path.exists():
            raise not_written(path, error) from error
        make_folder(path)  # another process has just removed it
    except OSError as error:
        raise not_written(path, error) from error


def sync_folder(path: Path) -> None:
    """Force the renames in ``path`` to the disk; Windows has no call for that."""
    if SYNCS_LATER:
        with _opened(path) as descriptor:
            os.fsync(descriptor)


def sync_filesystem(folder: Path) -> None:
    """Force everything that was written to the file system of ``folder`` to the disk, in one call.

    Raises:
        OSError: the disk failed; the message names ``folder``.
    """
    if not SYNCS_LATER:
        return
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:  # as on macOS: then all file systems
        os.sync()
        return
    with _opened(folder) as descriptor:
        if syncfs(descriptor):
            code = ctypes.get_errno()
            raise not_written(folder, OSError(code, os.strerror(code)))


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def not_written(path: Path, error: OSError) -> OSError:
    """Return ``error`` with a message that names ``path`` and what to do."""
    reason = error.strerror or str(error)
    hint = "what is finished is kept, and the same command goes on from there"
    return OSError(error.errno, f"could not be written ({reason}); {hint}", str(path))


def cache_folder() -> Path:
    """Return the folder of what this package can compute again: scoresde-fast in $XDG_CACHE_HOME, else ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "scoresde-fast"
