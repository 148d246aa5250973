# SPDX-License-Identifier: Apache-2.0
"""`ProcessLock`: makes a process the only one that writes something."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from scoresde_fast.files import make_folder, write_error

POLL_SECONDS = 0.01


class ProcessLock:
    """An exclusive lock of the operating system, released when the process dies. Its file is removed on release.

    The file contains the name of the process that has the lock.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(
            path,
            thread_local=False,
            poll_interval=POLL_SECONDS,
            fallback_to_soft=False,  # a soft lock is only a file, which would outlive a killed process
            on_acquired=self._write_owner,
        )

    @property
    def owner(self) -> str:
        """Name of the process that has the lock, such as "process 123 on host"."""
        name = ""
        # The process has just ended, or Windows does not allow reading a locked file, or it has something else.
        with suppress(OSError, UnicodeDecodeError):
            name = self._path.read_text()
        return name or "another process"

    def acquire(self, *, wait: bool) -> bool:
        """Try to take the lock and return whether it is taken; with ``wait``, block until it is.

        Raises:
            OSError: the lock file cannot be created.
        """
        while True:
            make_folder(self._path.parent)
            try:
                self._lock.acquire(blocking=wait)
                return True
            except Timeout:
                if self._path.exists():
                    return False
            except (FileNotFoundError, FileExistsError):
                pass
            except OSError as error:
                raise write_error(self._path, error) from error
            # The lock's last owner has just removed the file or the folder: try again.

    def release(self) -> None:
        """Release the lock; remove its file, and the folder if it is then empty."""
        if self._lock.is_locked:
            # Removed before the release, so that a process that waits for this file notices. Windows cannot remove an
            # open file; there filelock removes it on release.
            with suppress(FileNotFoundError, PermissionError):
                self._path.unlink()
            self._lock.release()
            with suppress(OSError):
                self._path.parent.rmdir()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _write_owner(self, file: int) -> None:
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
