# SPDX-License-Identifier: Apache-2.0
"""Atomic writes of files, syncing to disk, and the cache folder."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

UNFINISHED = ".unfinished"
"""Suffix of the hidden temporary name that a file has until all bytes are written."""
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""Flags of `os.open` for the files of a set; Windows has no flag that refuses links."""
CAN_SYNC_FILESYSTEM = hasattr(os, "sync")
"""Whether the system can sync many files in one call. Windows cannot: there each file is synced when it is written."""


def temporary_name(path: Path) -> Path:
    """Return the name that the file ``path`` has until all bytes are written."""
    return path.with_name(f".{path.name}{UNFINISHED}")


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary binary file that replaces ``path`` when the block succeeds; otherwise ``path`` is unchanged.

    Without ``sync``, a crash of the machine (not of the program) before `sync_filesystem` may truncate ``path``.

    Raises:
        OSError: the file cannot be written (disk full, read-only, ...); see `write_error`.
    """
    temporary = temporary_name(path)
    try:
        with _create(temporary) as file:
            yield file
            file.flush()
            if sync or not CAN_SYNC_FILESYSTEM:
                os.fsync(file.fileno())  # before the rename, so that after a crash the renamed file is complete
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise write_error(path, error) from error
        raise


@contextmanager
def appending(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file for reading and appending, create it if it is missing, and sync it when the block succeeds.

    Raises:
        OSError: the file cannot be written, or is a link.
    """
    try:
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | NO_LINK, 0o666)
        with open(descriptor, "a+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error


def write_json(path: Path, value: object, **options: Any) -> None:
    """Write ``value`` and a newline as `replacing` does; the options are those of `json.dumps`."""
    with replacing(path) as file:
        file.write((json.dumps(value, **options) + "\n").encode())


def write_atomically(path: str, content: bytes) -> None:
    """Write ``content`` as `replacing` does without sync, but faster for many small files.

    Raises:
        OSError: as `replacing`.
    """
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}{UNFINISHED}"
    try:
        with _create(temporary) as file:
            file.write(content)
            if not CAN_SYNC_FILESYSTEM:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise write_error(Path(path), error) from error


def _create(path: str | Path) -> BinaryIO:
    """Create a file that must not exist, so that no link of that name is followed; remove what a killed run left."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except FileExistsError:
        os.unlink(path)
        descriptor = os.open(path, flags, 0o666)
    return open(descriptor, "wb")


def read_file(path: str | Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        ValueError: ``path`` is a link, a folder or another special file.
        OSError: the file is missing or cannot be read.
    """
    try:
        # Not blocking, because the opening of a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | NO_LINK | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("it is a link") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.readall()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create ``path`` and its missing parents.

    Raises:
        ValueError: the path, or one of its parents, is a link to nothing.
        OSError: as `replacing`.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        if path.exists():
            raise write_error(path, error) from error
        for each in (path, *path.parents):
            if each.is_symlink() and not each.exists():
                raise ValueError(f"{each} is a link to {os.readlink(each)}, which does not exist; remove it") from error
        make_folder(path)  # another process has just removed the folder
    except OSError as error:
        raise write_error(path, error) from error


def sync_folder(path: Path) -> None:
    """Sync the renames in ``path`` to disk; do nothing on Windows, which cannot sync a folder."""
    if CAN_SYNC_FILESYSTEM:
        with _folder_descriptor(path) as descriptor:
            os.fsync(descriptor)


def sync_filesystem(folder: Path) -> None:
    """Sync everything that was written to the file system of ``folder`` to disk, in one call.

    Raises:
        OSError: the disk failed; see `write_error`.
    """
    if not CAN_SYNC_FILESYSTEM:
        return
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:  # macOS can only sync all file systems
        os.sync()
        return
    with _folder_descriptor(folder) as descriptor:
        if syncfs(descriptor):
            code = ctypes.get_errno()
            raise write_error(folder, OSError(code, os.strerror(code)))


@contextmanager
def _folder_descriptor(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_error(path: Path, error: OSError) -> OSError:
    """Return ``error`` with a message that names ``path`` and says what to do."""
    reason = error.strerror or str(error)
    obstacles: dict[type[OSError], str] = {
        IsADirectoryError: "move the folder, and ",
        FileExistsError: "choose another name or move the file, and ",
        NotADirectoryError: "choose another name or move the file, and ",
    }
    hint = f"finished files are kept; {obstacles.get(type(error), '')}run the same command again to continue"
    return OSError(error.errno, f"could not be written ({reason}); {hint}", str(path))


def user_path(text: str | Path) -> Path:
    """Return a path that the user gave, with a leading ``~`` expanded.

    Raises:
        ValueError: the path is empty, or ``~`` is of an unknown user.
    """
    if not str(text):
        raise ValueError("the path '' is empty; give the name of a file or folder, or . for the current folder")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        message = f"the path {text} begins with an unknown user; write ./{text} for a file of that name"
        raise ValueError(message) from error


def cache_folder() -> Path:
    """Return the folder for results that can be recomputed: scoresde-fast in $XDG_CACHE_HOME, by default ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "scoresde-fast"
