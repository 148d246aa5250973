# SPDX-License-Identifier: Apache-2.0
"""Readers for sets of image files: a folder with its subfolders, a .zip, and WebDataset's .tar shards."""

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
from scoresde_fast.data.images import Images, Item, corrupt_file_errors, decode_item

MANIFEST, GRID = "samples.json", "grid.png"
"""Files of a set of samples; the grid is not an image of the set."""
LABEL_SUFFIX = ".cls"
TAR_PADDING = 1 << 20
"""Limit of the bytes after a .tar's last file that are checked to be zeros; writers differ in how many they add."""
_SEED = re.compile(r"(?:^|/)(\d{6,})\.\w+$", re.ASCII)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}", re.ASCII)


def open_folder(folder: Path, size: int | None) -> Images:
    """Open the images in a folder and its subfolders, in the order of `_ordered_with_labels`."""
    is_set = (folder / MANIFEST).exists()
    names = [name for name in _walk(folder, "") if _is_image(name) and not (is_set and name == GRID)]
    files = _ordered_with_labels(names, classes=not is_set)

    def item(index: int) -> Item:
        name, label = files[index]
        return decode_item(str(folder), name, (folder / name).read_bytes(), label)

    return Images(str(folder), len(files), lambda: (item(index) for index in range(len(files))), size, item=item)


def open_zip(path: Path, size: int | None) -> Images:
    """Open the images of a .zip, in the order of `_ordered_with_labels`."""
    with corrupt_file_errors(str(path)), ZipFile(path) as archive:
        files = _ordered_with_labels([name for name in archive.namelist() if _is_image(name)])

    def items() -> Generator[Item, None, None]:
        with ZipFile(path) as archive:
            for name, label in files:
                yield decode_item(str(path), name, archive.read(name), label)

    return Images(str(path), len(files), items, size)


def is_shard_pattern(name: str) -> bool:
    """Return whether ``name`` ends in .tar but is not an existing file, so that it may be a pattern of shards."""
    return name.endswith(".tar") and not Path(name).exists()


def open_shards(pattern: str | Path, size: int | None) -> Images:
    """Open one .tar shard, or all shards of a pattern: ``set-*.tar``, ``set-{000000..000031}.tar``.

    A ``set.tar`` that does not exist is a pattern for ``set-000000.tar, ...``, the names that ``scoresde-fast sample``
    writes.  Shards are read in the order of their names, images in their order in the shard.  Files with the same name
    up to the first dot are one sample; its ``.cls`` file contains its label.

    Raises:
        FileNotFoundError: there is no such shard.
        ValueError: a shard is corrupt or truncated, or a sample has two images.
    """
    paths = _shard_paths(str(pattern))

    def items() -> Generator[Item, None, None]:
        for path in paths:
            with corrupt_file_errors(str(path)), tarfile.open(path, "r:") as shard:
                for image, label_file in _samples(shard, path):
                    label = None if label_file is None else _read_label(shard, label_file, path)
                    yield decode_item(str(path), image.name, _read_member(shard, image), label)

    count = 0
    for path in paths:
        with corrupt_file_errors(str(path)), tarfile.open(path, "r:") as shard:
            count += sum(1 for _ in _samples(shard, path))
    return Images(str(pattern), count, items, size)


def _walk(root: Path, prefix: str) -> Iterator[str]:
    """Yield the paths of all files below ``root / prefix``, relative to ``root``, with slashes."""
    with os.scandir(root / prefix) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir():
                yield from _walk(root, f"{name}/")
            else:
                yield name


def _is_image(name: str) -> bool:
    """Return whether a file has an image's suffix and is neither hidden nor one of macOS's copies in archives."""
    return name.lower().endswith(SUFFIXES) and not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _ordered_with_labels(names: Sequence[str], *, classes: bool = True) -> list[tuple[str, int | None]]:
    """Return (name, label) of the images in reading order; the label is None if the folders are not classes.

    Names that are seeds (``000012.png``, ``012/012345.png``) are sorted by seed, others as strings.  If every image is
    in one of several sibling folders, the folders are classes, numbered in the order of their names.  The folders
    that ``scoresde-fast sample`` writes, of a thousand seeds each, are no classes.
    """
    seeds = [int(match[1]) for match in map(_SEED.search, names) if match]
    by_seed = len(set(seeds)) == len(names)
    order = sorted(range(len(names)), key=seeds.__getitem__ if by_seed else names.__getitem__)
    parents = [posixpath.dirname(name) for name in names]
    in_seed_folders = by_seed and all(
        posixpath.basename(parent) == f"{seed // 1000:03d}" for parent, seed in zip(parents, seeds, strict=True)
    )
    folders = sorted(set(parents))
    siblings = len(folders) > 1 and "" not in folders and len(set(map(posixpath.dirname, folders))) == 1
    if not classes or in_seed_folders or not siblings:
        return [(names[index], None) for index in order]
    labels = {folder: label for label, folder in enumerate(folders)}
    return [(names[index], labels[parents[index]]) for index in order]


def _shard_paths(pattern: str) -> list[Path]:
    """Return the existing shards of a pattern; raise FileNotFoundError if one is missing or none exists."""
    names = [pattern]
    while match := _RANGE.search(names[0]):
        first, last = match.groups()
        numbers = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
        names = [name.replace(match[0], number, 1) for name in names for number in numbers]
        if not names:
            raise ValueError(f"the range {match[0]} in {pattern} is empty; write the smaller number first")
    if len(names) == 1 and not Path(pattern).exists():
        names = sorted(glob.glob(pattern)) or sorted(glob.glob(f"{glob.escape(pattern[:-4])}-[0-9]*.tar"))
    for name in names or [pattern]:
        if not Path(name).exists():
            raise FileNotFoundError(f"there is no shard {name}")
    return [Path(name) for name in names]


def _samples(shard: tarfile.TarFile, path: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarInfo | None]]:
    """Yield the image and the label file of each sample; raise EOFError if the shard is truncated."""
    key = ""
    files: dict[str, tarfile.TarInfo] = {}  # of the current sample, by suffix
    while shard.offset and (member := shard.next()):  # Python 3.10's next() fails in a .tar without files
        shard.members.clear()  # type: ignore[attr-defined]  # else the headers of a shard stay in memory
        folder, slash, base = member.name.rpartition("/")
        if not member.isfile() or base.startswith("."):
            continue
        stem, _, suffix = base.partition(".")
        if folder + slash + stem != key:
            yield from _sample(files, path)
            key, files = folder + slash + stem, {}
        files[f".{suffix.lower()}"] = member
    yield from _sample(files, path)
    assert shard.fileobj is not None
    shard.fileobj.seek(shard.offset)
    end = shard.fileobj.read(TAR_PADDING)
    if len(end) < tarfile.BLOCKSIZE or any(end):
        raise EOFError("no zero padding after its last complete file, as after an interrupted write")


def _sample(files: dict[str, tarfile.TarInfo], path: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarInfo | None]]:
    """Yield the image and the label file of one sample, or nothing if it has no image."""
    images = [member for suffix, member in files.items() if suffix.endswith(SUFFIXES)]
    if len(images) > 1:
        raise ValueError(f"{images[0].name} and {images[1].name} of {path} are one sample; keep only one image of it")
    if images:
        yield images[0], files.get(LABEL_SUFFIX)


def _read_label(shard: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int:
    content = _read_member(shard, member)
    try:
        return int(content)
    except ValueError as error:
        raise ValueError(f"{member.name} of {path} is {content[:20]!r}; a label is an integer") from error


def _read_member(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = shard.extractfile(member)
    assert file is not None  # None is for members that are not files
    return file.read()
