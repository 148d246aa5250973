# SPDX-License-Identifier: Apache-2.0
"""Limits on the pickle in a PyTorch file, checked from its opcodes before PyTorch reads it.

PyTorch's restricted reader runs no code, but it hashes and holds whatever the pickle describes: a deep tuple as a key
crashes the process, a doubled one never ends, and a small compressed file may fill the memory.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

MAX_DEPTH = 100
"""Deepest nesting of objects; that of checkpoints is about ten."""
MAX_BYTES, MAX_OPCODES = 10_000_000, 1_000_000
"""Largest pickle; that of an official checkpoint has 0.5 MB, and about 25 opcodes for each tensor."""
MAX_OBJECTS = 10_000_000
"""Most objects, where one that is shared counts each time."""
LEGACY_PICKLES = 5
"""Number of pickles at the start of a file in the format of PyTorch before 1.6."""
MUTATIONS = frozenset(["APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"])
Size = tuple[int, int]
"""Depth and number of objects of a value on the stack of a pickle."""


def require_modest(path: Path) -> None:
    """Raise ``ValueError`` if a PyTorch file is compressed, or its pickle is corrupt, too deep or too large."""
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        try:
            for pickled in _zipped_pickles(file, path.stat().st_size) if is_zip else [file] * LEGACY_PICKLES:
                _require_modest(pickled)
        except (IndexError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise ValueError("it is not a PyTorch checkpoint, or is truncated or corrupt") from error


def require_checksums(path: Path) -> None:
    """Raise ``ValueError`` if a PyTorch file has a wrong checksum, which `torch.load` does not verify."""
    if zipfile.is_zipfile(path):  # older formats have no checksums
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"it is damaged (in {damaged})")


def _zipped_pickles(file: BinaryIO, size: int) -> Iterator[BinaryIO]:
    """Yield the pickles of a zip archive of ``size`` bytes."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.filename.lower() for entry in entries]  # PyTorch does not distinguish cases
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > size:
            raise ValueError(
                f"it is compressed: its {size:,} bytes unpack to {unpacked:,}; PyTorch never compresses checkpoints"
            )
        if len(set(names)) < len(names):
            raise ValueError("it has two entries of one name, which PyTorch never writes")
        for entry in entries:
            if entry.filename.lower().endswith("data.pkl"):
                if entry.file_size > MAX_BYTES:
                    raise ValueError(f"its pickle is larger than {MAX_BYTES / 1e6:g} MB, so it is no checkpoint")
                with archive.open(entry) as pickled:
                    yield pickled  # type: ignore[misc]  # a ZipExtFile reads bytes


def _require_modest(pickled: BinaryIO) -> None:
    """Follow the stack of a pickle with sizes in place of values."""
    stack: list[Size | None] = []  # None is a mark
    marks: list[int] = []
    memo: dict[int, Size | None] = {}
    for count, (opcode, argument, _) in enumerate(_opcodes(pickled)):
        name, before, after = opcode.name, opcode.stack_before, opcode.stack_after
        if count >= MAX_OPCODES:
            raise ValueError(f"its pickle has more than {MAX_OPCODES:,} opcodes, so it is no checkpoint")
        if "PUT" in name or name == "MEMOIZE":
            memo[len(memo) if argument is None else int(argument)] = stack[-1]
        elif "GET" in name:
            stack.append(memo[int(argument)])
        elif name == "MARK":
            marks.append(len(stack))
            stack.append(None)
        else:
            taken = len(before)
            if pickletools.markobject in before:
                taken = len(stack) - marks.pop() + before.index(pickletools.markobject)
            values = stack[len(stack) - taken :]
            del stack[len(stack) - taken :]
            if len(values) < taken:
                raise IndexError("the stack is empty")
            stack += [_result(name, [value for value in values if value is not None])] * len(after)


def _opcodes(pickled: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    """Yield the opcodes of a pickle; raise ``EOFError`` if the file is truncated or not a pickle."""
    try:
        yield from pickletools.genops(pickled)
    except ValueError as error:
        raise EOFError(str(error)) from error


def _result(name: str, values: list[Size]) -> Size:
    """Return the size of what an opcode makes of ``values``."""
    objects = 1 + sum(value[1] for value in values)
    owner = values[:1] if name in MUTATIONS else []  # items are added to the first value
    depth = max([value[0] for value in owner] + [1 + value[0] for value in values[len(owner) :]], default=0)
    if depth > MAX_DEPTH:
        raise ValueError(f"its pickle nests objects more than {MAX_DEPTH} deep, so it is no checkpoint")
    if objects > MAX_OBJECTS:
        raise ValueError(f"its pickle describes more than {MAX_OBJECTS:,} objects, so it is no checkpoint")
    return depth, objects
