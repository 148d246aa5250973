# SPDX-License-Identifier: Apache-2.0
"""Readers of sets of image files: a folder with its subfolders, a .zip, and WebDataset's .tar shards."""

from __future__ import annotations

import glob
import os
import posixpath
import re
import tarfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from zipfile import ZipFile

from scoresde_fast.data.codecs import SUFFIXES
from scoresde_fast.data.items import Images, Item, decode_item, reading

MANIFEST, GRID = "samples.json", "grid.png"
"""Beside a manifest, the grid is a picture of the set rather than an image of it."""
LABEL = ".cls"
TAR_END = 1 << 20
"""Bytes that are checked after the last file of a .tar: zeros, whose number the writer chooses."""
_SEED = re.compile(r"(?:^|/)(\d{6,})\.\w+$", re.ASCII)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}", re.ASCII)


def open_folder(folder: Path, size: int | None) -> Images:
    """Open the images in a folder and its subfolders, in the order of `_labelled`."""
    names = [name for name in _walk(folder, "") if _is_image(name)]
    is_set = (folder / MANIFEST).exists()
    if is_set:
        names = [name for name in names if name != GRID]
    labels = _labelled(names, classes=not is_set)

    def item(number: int) -> Item:
        name, label = labels[number]
        return decode_item(str(folder), name, (folder / name).read_bytes(), label)

    def items() -> Generator[Item, None, None]:
        yield from map(item, range(len(labels)))

    return Images(str(folder), len(labels), items, size, item=item)


def open_zip(path: Path, size: int | None) -> Images:
    """Open the images of a .zip, in the order of `_labelled`."""
    with reading(str(path)), ZipFile(path) as archive:
        labels = _labelled([name for name in archive.namelist() if _is_image(name)])

    def items() -> Generator[Item, None, None]:
        with ZipFile(path) as archive:
            for name, label in labels:
                yield decode_item(str(path), name, archive.read(name), label)

    return Images(str(path), len(labels), items, size)


def is_shard_pattern(name: str) -> bool:
    """Return whether ``name`` may stand for several .tar shards."""
    return name.endswith(".tar") and not Path(name).exists()


def open_shards(pattern: str | Path, size: int | None) -> Images:
    """Open one .tar shard, or all that ``pattern`` stands for: ``set-*.tar``, ``set-{000000..000031}.tar``.

    A ``set.tar`` that does not exist stands for ``set-000000.tar, ...``, the names that ``scoresde-fast sample``
    writes.  The order is that of the shards' names and of the images in each.  The files of a sample have one name up
    to its first dot; a file ``.cls`` holds its label.

    Raises:
        FileNotFoundError: there is no such shard.
        ValueError: a shard is damaged or not whole, or a sample has two images.
    """
    paths = _shard_paths(str(pattern))

    def items() -> Generator[Item, None, None]:
        for path in paths:
            with reading(str(path)), tarfile.open(path, "r:") as shard:
                for image, label_file in _samples(shard, path):
                    label = None if label_file is None else _label(shard, label_file, path)
                    yield decode_item(str(path), image.name, _content(shard, image), label)

    count = 0
    for path in paths:
        with reading(str(path)), tarfile.open(path, "r:") as shard:
            count += sum(1 for _ in _samples(shard, path))
    return Images(str(pattern), count, items, size)


def _walk(root: Path, inside: str) -> Iterator[str]:
    """Yield the files below ``root`` by their names from there, with slashes."""
    with os.scandir(root / inside) as entries:
        for entry in entries:
            name = f"{inside}{entry.name}"
            if entry.is_dir():
                yield from _walk(root, f"{name}/")
            else:
                yield name


def _is_image(name: str) -> bool:
    """Return whether a file has the name of an image, and not of a hidden copy as some systems make."""
    return name.lower().endswith(SUFFIXES) and not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _labelled(names: Sequence[str], *, classes: bool = True) -> list[tuple[str, int | None]]:
    """Return the names of images in order, each with its label.

    Names that are seeds (``000012.png``, ``012/012345.png``) are in the order of the seeds, others in that of their
    characters.  If every image is in one of several sibling folders, the folders are classes, numbered in the order
    of their names; the folders of a thousand seeds each are not.
    """
    seeds = [int(match[1]) for match in map(_SEED.search, names) if match]
    by_seed = len(set(seeds)) == len(names)
    order = sorted(range(len(names)), key=seeds.__getitem__ if by_seed else names.__getitem__)
    parents = [posixpath.dirname(name) for name in names]
    in_thousands = by_seed and all(
        posixpath.basename(parent) == f"{seed // 1000:03d}" for parent, seed in zip(parents, seeds, strict=True)
    )
    folders = sorted(set(parents))
    siblings = len(folders) > 1 and "" not in folders and len(set(map(posixpath.dirname, folders))) == 1
    if not classes or in_thousands or not siblings:
        return [(names[index], None) for index in order]
    numbers = {folder: number for number, folder in enumerate(folders)}
    return [(names[index], numbers[parents[index]]) for index in order]


def _shard_paths(pattern: str) -> list[Path]:
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


def _samples(shard: tarfile.TarFile, path: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarInfo | None]]:
    """Yield the image of each sample, and the file of its label; check the end of the shard."""
    key = ""
    files: dict[str, tarfile.TarInfo] = {}
    while shard.offset and (member := shard.next()):  # Python 3.10's next() fails in a .tar without files
        shard.members.clear()  # type: ignore[attr-defined]  # else the headers of a shard stay in memory
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
    end = shard.fileobj.read(TAR_END)
    if len(end) < tarfile.BLOCKSIZE or any(end):
        raise EOFError(
            "it does not end as a .tar does: writing it was interrupted, or foreign bytes follow its last complete file"
        )


def _sample(files: dict[str, tarfile.TarInfo], path: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarInfo | None]]:
    images = [member for suffix, member in files.items() if suffix.endswith(SUFFIXES)]
    if len(images) > 1:
        raise ValueError(
            f"{images[0].name} and {images[1].name} of {path} are one sample, and a sample is one image; leave one out"
        )
    if images:
        yield images[0], files.get(LABEL)


def _label(shard: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int:
    text = _content(shard, member)
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{member.name} of {path} is {text[:20]!r}; a label is a whole number") from error


def _content(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = shard.extractfile(member)
    assert file is not None  # it is a file
    return file.read()
