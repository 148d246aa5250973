# SPDX-License-Identifier: Apache-2.0
"""Who writes a set: locks that the system gives back when a process dies, whatever killed it."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scoresde_fast.files import make_folder, not_written
from scoresde_fast.generate.shards import Shard

GATE = "gate.lock"
_SHARE = re.compile(r"share-(\d+)-of-(\d+)\.lock", re.ASCII)


class SetInUseError(ValueError):
    """Another process writes what this one was asked to write."""


class _Lock:
    """An open file that no other open file of the path is locked beside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = -1

    def take(self, *, wait: bool) -> bool:
        """Whether it was free; with ``wait`` it is waited for."""
        while True:
            make_folder(self.path.parent)
            try:
                self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:  # the folder went meanwhile
                continue
            except OSError as error:
                raise not_written(self.path, error) from error
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                self._close()
                return False
            except OSError as error:
                self._close()
                raise not_written(self.path, error) from error
            # Whoever held it before may have removed the file: then others lock a new one.
            if self._is_at_path():
                return True
            self._close()

    def _is_at_path(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self.file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        os.close(self.file)
        self.file = -1

    def release(self) -> None:
        """Remove the file and let it go; again is nothing."""
        if self.file >= 0:
            self.path.unlink(missing_ok=True)
            self._close()


@contextmanager
def gate(folder: Path) -> Iterator[None]:
    """One process at a time: for what is read and written again, as a set's description."""
    lock = _Lock(folder / GATE)
    lock.take(wait=True)
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):  # as long as there is anything in it
            folder.rmdir()


class Claim:
    """The right to write a share of the set whose locks are in ``folder``, until `release`.

    Args:
        when_alone: done first, if nobody else is writing the set, and nobody begins to meanwhile.

    Raises:
        SetInUseError: another process writes this share, or the set is being made in another number of shares.
    """

    def __init__(self, folder: Path, shard: Shard, when_alone: Callable[[], None] | None = None) -> None:
        self._lock = _Lock(folder / f"share-{shard.index}-of-{shard.count}.lock")
        self._folder = folder
        with gate(folder):
            others = list(_held(folder))
            for other, owner in others:
                if other == shard:
                    raise SetInUseError(
                        f"{owner} is writing {_named(shard)} of this set; wait for it, or stop it and start again"
                    )
                if other.count != shard.count:
                    raise SetInUseError(
                        f"{owner} is writing {_named(other)} of this set, and {_named(shard)} would overlap; "
                        f"wait until all of {other.count} have ended, or stop them, and start again"
                    )
            # Behind the gate: others begin to write only after it.
            if not others and when_alone is not None:
                when_alone()
            if not self._lock.take(wait=False):
                raise SetInUseError(f"another process is writing {_named(shard)} of this set; wait for it")
            os.write(self._lock.file, f"process {os.getpid()} on {socket.gethostname()}".encode())

    def release(self) -> None:
        """Let the share go."""
        self._lock.release()
        with suppress(OSError):
            self._folder.rmdir()


def _held(folder: Path) -> Iterator[tuple[Shard, str]]:
    """The shares that are being written, and by whom; the files of dead ones go."""
    for path in sorted(folder.iterdir()):
        if match := _SHARE.fullmatch(path.name):
            lock = _Lock(path)
            if lock.take(wait=False):
                lock.release()
            else:
                yield Shard(int(match[1]), int(match[2])), path.read_text() or "another process"


def _named(shard: Shard) -> str:
    return "all" if shard.count == 1 else f"share {shard}"
