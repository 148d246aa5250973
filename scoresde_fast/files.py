# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all, whatever ends the program."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".unfinished"


def unfinished(path: Path) -> Path:
    """The hidden name beside ``path`` that its bytes have until they are all on the disk."""
    return path.with_name(f".{path.name}{UNFINISHED}")


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """A binary file that becomes ``path`` when the block ends well; a block that fails leaves ``path`` as it was.

    Without ``sync`` a crash of the machine, not of the program, may leave ``path`` with missing bytes until
    `sync_filesystem` has been called.

    Raises:
        OSError: it could not be written (disk full, read-only, ...); the sentence names ``path`` and the way on.
    """
    temporary = unfinished(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())  # before the rename: a crash must not leave the final name on missing bytes
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise not_written(path, error) from error
        raise


def write_whole(path: str, content: bytes) -> None:
    """`replacing` without sync, for many small files.

    Raises:
        OSError: as `replacing`.
    """
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}{UNFINISHED}"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise not_written(Path(path), error) from error


def make_folder(path: Path) -> None:
    """Create ``path`` and its parents where they are missing; raises ``OSError`` as :func:`replacing` does."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(path, error) from error


def sync_folder(path: Path) -> None:
    """Put the renames done in ``path`` on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystem(folder: Path) -> None:
    """Put everything that was written to the file system of ``folder`` on the disk: one call for any number of files.

    Raises:
        OSError: it could not be written; names ``folder``.
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:  # not on this system: then everything of the machine
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(descriptor):
            code = ctypes.get_errno()
            raise not_written(folder, OSError(code, os.strerror(code)))
    finally:
        os.close(descriptor)


def not_written(path: Path, error: OSError) -> OSError:
    """``error`` as a sentence that names ``path`` and the way on."""
    reason = error.strerror or str(error)
    hint = "what is finished is kept, and the same command goes on from there"
    return OSError(error.errno, f"could not be written ({reason}); {hint}", str(path))


def cache_folder() -> Path:
    """Where this package keeps what it can find again: ``scoresde-fast`` in $XDG_CACHE_HOME, else in ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "scoresde-fast"
