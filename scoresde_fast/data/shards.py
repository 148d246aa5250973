# SPDX-License-Identifier: Apache-2.0
"""Sets of images in .tar shards as WebDataset has them: a sample's files have one name up to its first dot."""

from __future__ import annotations

import glob
import re
import tarfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from scoresde_fast.data.encoded import SUFFIXES
from scoresde_fast.data.image_files import decoded
from scoresde_fast.data.items import Images, Item, reading

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}", re.ASCII)
LABEL = ".cls"
END = 1 << 20
"""Of a shard, so many bytes behind the last file are looked at: they are zeros, as many as its writer liked."""


class Sample(NamedTuple):
    """The members of a shard that are one sample: its image and the file of its label."""

    image: tarfile.TarInfo
    label: tarfile.TarInfo | None


def is_pattern(name: str) -> bool:
    """``name`` may stand for several shards."""
    return name.endswith(".tar") and not Path(name).exists()


def open_shards(pattern: str | Path, size: int | None) -> Images:
    """The images of one shard, or of all that ``pattern`` stands for: ``set-*.tar``, ``set-{000000..000031}.tar``.

    ``set.tar`` where there is none is all of ``set-000000.tar, ...``, as ``scoresde-fast sample`` has them.  The order
    is that of the shards' names and of the places within; a sample's file ``.cls`` holds its label.

    Raises:
        FileNotFoundError: there is no such shard.
        ValueError: a shard is damaged or not whole, or a sample has two images.
    """
    paths = _paths(str(pattern))

    def items() -> Generator[Item, None, None]:
        for path in paths:
            with reading(str(path)), tarfile.open(path, "r:") as shard:
                for sample in _samples(shard, path):
                    label = None if sample.label is None else _label(shard, sample.label, path)
                    yield decoded(str(path), sample.image.name, _content(shard, sample.image), label)

    count = 0
    for path in paths:
        with reading(str(path)), tarfile.open(path, "r:") as shard:
            count += sum(1 for _ in _samples(shard, path))
    return Images(str(pattern), count, items, size)


def _paths(pattern: str) -> list[Path]:
    names = [pattern]
    while match := _RANGE.search(names[0]):
        first, last = match.groups()
        numbers = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
        names = [name.replace(match[0], number, 1) for name in names for number in numbers]
        if not names:
            raise ValueError(f"the range {match[0]} in {pattern} is empty; write the smaller number first")
    if len(names) == 1 and not Path(pattern).exists():
        names = sorted(glob.glob(pattern)) or sorted(glob.glob(f"{glob.escape(pattern[:-4])}-[0-9]*.tar"))
    missing = [name for name in names if not Path(name).exists()] or ([] if names else [pattern])
    if missing:
        raise FileNotFoundError(f"there is no shard {missing[0]}")
    return [Path(name) for name in names]


def _samples(shard: tarfile.TarFile, path: Path) -> Iterator[Sample]:
    key = ""
    files: dict[str, tarfile.TarInfo] = {}
    while shard.offset and (member := shard.next()):  # Python 3.10's next() fails where there is no file at all
        shard.members.clear()  # type: ignore[attr-defined]  # else all of a shard's headers stay in memory
        if not member.isfile():
            continue
        folder, slash, base = member.name.rpartition("/")
        stem, _, suffix = base.partition(".")
        if base.startswith("."):
            continue
        if folder + slash + stem != key:
            yield from _sample(files, path)
            key, files = folder + slash + stem, {}
        files[f".{suffix.lower()}"] = member
    yield from _sample(files, path)
    assert shard.fileobj is not None
    shard.fileobj.seek(shard.offset)
    end = shard.fileobj.read(END)
    if len(end) < tarfile.BLOCKSIZE or any(end):
        raise EOFError(
            "it does not end as a .tar does: its writing was stopped, or what follows its last whole file is no file"
        )


def _sample(files: dict[str, tarfile.TarInfo], path: Path) -> Iterator[Sample]:
    images = [member for suffix, member in files.items() if suffix.endswith(SUFFIXES)]
    if len(images) > 1:
        raise ValueError(
            f"{images[0].name} and {images[1].name} of {path} are one sample, and a sample is one image; leave one out"
        )
    if images:
        yield Sample(images[0], files.get(LABEL))


def _label(shard: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int:
    text = _content(shard, member)
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{member.name} of {path} is {text[:20]!r}; a label is a whole number") from error


def _content(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file: IO[bytes] | None = shard.extractfile(member)
    assert file is not None  # only of what is no file
    return file.read()
