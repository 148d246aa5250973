# SPDX-License-Identifier: Apache-2.0
"""A model of a file system that loses power: the states in which a disk may be after a prefix of a run's operations."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scoresde_fast.generate import stores

Entries = dict[str, int | None]
"""Path -> the number of its file, or None for a folder."""
Operation = tuple[str, Any, Any]


@dataclass
class Disk:
    """What the programs see, what is certainly on the disk, and the operations between them.

    A file's content is on the disk after fsync of the file, its name after fsync of its folder, and everything after a
    sync of the file system.  Until then each change may or may not reach the disk, in any order.
    """

    seen: Entries = field(default_factory=dict)
    names: Entries = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    synced: dict[int, bytes] = field(default_factory=dict)
    pending: list[Operation] = field(default_factory=list)

    def apply(self, operation: Operation) -> None:
        kind, a, b = operation
        if kind == "write":
            self.contents[a] = b
        elif kind == "fsync":
            self.synced[a] = self.contents.get(a, b"")
        elif kind == "sync folder":
            self.pending = [each for each in self.pending if not _in_folder(each, a)]
            for entries in (self.names, self.seen):
                for path in [path for path in entries if os.path.dirname(path) == a]:
                    if path in self.seen:
                        self.names[path] = self.seen[path]
                    else:
                        self.names.pop(path, None)
        elif kind == "sync":
            self.names, self.synced, self.pending = dict(self.seen), dict(self.contents), []
        else:
            change(self.seen, operation)
            self.pending.append(operation)

    def states(self, generator: random.Random) -> Iterator[dict[str, bytes | None]]:
        """Yield states of the disk after a power loss: path -> content, None for a folder."""
        some = [[each for each in self.pending if generator.random() < 0.5] for _ in range(2)]
        for operations, share in (([], 0.0), (self.pending, 0.0), (some[0], 0.0), (some[1], generator.random())):
            names = dict(self.names)
            for operation in operations:
                change(names, operation)
            yield {
                path: None if file is None else self._content(file, share)
                for path, file in names.items()
                if self._reachable(path, names)
            }

    def _content(self, file: int, share: float) -> bytes:
        """Return the content of a file of which only a part of what was not synced has reached the disk."""
        new = self.contents.get(file, b"")
        old = self.synced.get(file, b"")
        kept = len(old) if new.startswith(old) else 0
        return new[: kept + round(share * (len(new) - kept))]

    @staticmethod
    def _reachable(path: str, names: Entries) -> bool:
        folder = os.path.dirname(path)
        return not folder or (folder in names and names[folder] is None and Disk._reachable(folder, names))


def change(entries: Entries, operation: Operation) -> None:
    """Apply the creation, renaming or removal of a name; a renaming of a name that is not there does nothing."""
    kind, a, b = operation
    if kind in ("create", "mkdir"):
        entries[a] = b
    elif kind == "replace" and a in entries:
        entries[b] = entries.pop(a)
    elif kind == "remove":
        entries.pop(a, None)


def _in_folder(operation: Operation, folder: str) -> bool:
    return os.path.dirname(operation[1]) == folder


@contextmanager
def recorded_operations(root: Path) -> Iterator[list[Operation]]:
    """Record the operations of this process on files below ``root``, with paths relative to it."""
    operations: list[Operation] = []
    numbers: dict[str, int] = {}  # of the file that each path has now
    opened: dict[int, str] = {}
    original = {name: getattr(os, name) for name in ("open", "replace", "unlink", "mkdir", "rmdir", "fsync")}

    def relative(path: Any) -> str:
        text = os.path.relpath(os.fspath(path), root)
        return "" if text == "." else text

    def write(path: str) -> None:
        if path in numbers and (root / path).exists():
            operations.append(("write", numbers[path], (root / path).read_bytes()))

    def open_(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        is_new = bool(flags & os.O_CREAT) and not os.path.lexists(path)
        descriptor: int = original["open"](path, flags, *arguments, **options)
        opened[descriptor] = name = relative(path)
        if is_new:
            numbers[name] = len(operations)
            operations.append(("create", name, len(operations)))
        return descriptor

    def replace(source: Any, target: Any) -> None:
        write(relative(source))
        original["replace"](source, target)
        numbers[relative(target)] = numbers.pop(relative(source))
        operations.append(("replace", relative(source), relative(target)))

    def removing(name: str) -> Callable[..., None]:
        def remove(path: Any, *arguments: Any, **options: Any) -> None:
            original[name](path, *arguments, **options)
            operations.append(("remove", relative(path), None))

        return remove

    def mkdir(path: Any, *arguments: Any, **options: Any) -> None:
        original["mkdir"](path, *arguments, **options)
        operations.append(("mkdir", relative(path), None))

    def fsync(descriptor: int) -> None:
        original["fsync"](descriptor)
        path = opened[descriptor]
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            operations.append(("sync folder", path, None))
        else:
            write(path)
            operations.append(("fsync", numbers[path], None))

    def sync(folder: Path) -> None:
        operations.append(("sync", None, None))

    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, function in (
            ("open", open_), ("replace", replace), ("mkdir", mkdir), ("fsync", fsync),
            ("unlink", removing("unlink")), ("rmdir", removing("rmdir")),
        ):  # fmt: skip
            monkeypatch.setattr(os, name, function)
        monkeypatch.setattr(stores, "sync_filesystem", sync)
        monkeypatch.setattr(os, "cpu_count", lambda: 1)  # one thread writes, so that the order is always the same
        yield operations
