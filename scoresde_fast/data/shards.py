# SPDX-License-Identifier: Apache-2.0
"""Reader for WebDataset's shards: .tar and .tar.gz files of images and labels."""

from __future__ import annotations

import glob
import gzip
import re
import tarfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import IO, NamedTuple, cast

import torch

from scoresde_fast.data.conversion import Conversion
from scoresde_fast.data.file_names import SUFFIXES, PassedOver, is_ignored
from scoresde_fast.data.images import Images, Item, corrupt_file_errors, decode_item
from scoresde_fast.data.limits import require_size
from scoresde_fast.data.sample_sets import MANIFEST

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
LABEL_SUFFIX = ".cls"
MAX_LABEL_BYTES, MAX_NAME_BYTES = 100, 1 << 20
"""Limits of the size of a label, and of the extended header of a file, which tarfile loads as a whole."""
MAX_SHARDS = 1_000_000
TAR_PADDING = 1 << 20
"""Limit of the bytes after a .tar's last file that are checked to be zeros; writers differ in how many they add."""
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}", re.ASCII)


class Sample(NamedTuple):
    """Neighbouring files of a shard with the same name up to the first dot.

    Attributes:
        key: that name.
        files: name of each file by its suffix.
        image: content of the image; empty if it was not read.
        label: the label, or None.
    """

    key: str
    files: dict[str, str]
    image: bytes
    label: int | None

    def image_name(self, path: Path) -> str | None:
        """Return the name of the image, or None without one; raise ValueError if there are two."""
        names = [name for suffix, name in self.files.items() if suffix.endswith(SUFFIXES)]
        if len(names) > 1:
            raise ValueError(f"{names[0]} and {names[1]} of {path} are one sample; keep only one image of it")
        return names[0] if names else None


class Shard(NamedTuple):
    """A shard, its number of images, and the labels that are not beside their images, by `Sample.key`."""

    path: Path
    images: int
    distant_labels: dict[str, int]


def is_shard(name: str) -> bool:
    """Return whether ``name`` has the suffix of a shard, or of a pattern of shards."""
    return name.lower().endswith(SHARD_SUFFIXES)


def open_shards(pattern: str, conversion: Conversion) -> Images:
    """Open one shard, or all shards of a pattern: ``set-*.tar``, ``set-{000000..000031}.tar``.

    A ``set.tar`` that does not exist is a pattern for ``set-000000.tar, ...``, the names that ``scoresde-fast sample``
    writes.  Shards are read in the order of their names, images in their order in the shard.  Files with the same name
    up to the first dot are one sample; its ``.cls`` file, which may be anywhere in the shard, contains its label.

    Raises:
        FileNotFoundError: there is no such shard.
        ValueError: a shard is corrupt or truncated, or a sample has two images.
    """
    passed_over = PassedOver()
    shards = [_scan(path, passed_over) for path in _shard_paths(pattern)]

    def items() -> Generator[Item, None, None]:
        for path, _, distant_labels in shards:
            with corrupt_file_errors(str(path)):
                for sample in _samples(path, with_images=True):
                    if name := sample.image_name(path):
                        label = distant_labels.get(sample.key) if sample.label is None else sample.label
                        yield decode_item(str(path), name, sample.image, label, conversion)

    return Images(pattern, sum(shard.images for shard in shards), items, conversion, passed_over=passed_over)


def _scan(path: Path, passed_over: PassedOver) -> Shard:
    """Read the names and labels of a shard; count its images, and the files that have none."""
    count, distant_labels = 0, {}
    with corrupt_file_errors(str(path)):
        for sample in _samples(path, with_images=False):
            if sample.image_name(path):
                count += 1
            elif sample.label is not None:
                distant_labels[sample.key] = sample.label
            else:
                for name in sample.files.values():
                    passed_over.add(name)
    return Shard(path, count, distant_labels)


def _shard_paths(pattern: str) -> list[Path]:
    """Return the existing shards of a pattern; raise FileNotFoundError if one is missing or none exists."""
    if Path(pattern).exists():
        return [Path(pattern)]
    ranges = [(int(first), int(last)) for first, last in _RANGE.findall(pattern)]
    for first, last in ranges:
        if first > last:
            raise ValueError(f"the range {{{first}..{last}}} in {pattern} is empty; write the smaller number first")
    if (count := prod(last - first + 1 for first, last in ranges)) > MAX_SHARDS:
        raise ValueError(f"{pattern} stands for {count} shards; at most {MAX_SHARDS} are read")
    names = [pattern]
    while match := _RANGE.search(names[0]):
        first_digits, last_digits = match.groups()
        numbers = [f"{number:0{len(first_digits)}d}" for number in range(int(first_digits), int(last_digits) + 1)]
        names = [name.replace(match[0], number, 1) for name in names for number in numbers]
    if len(names) == 1 and not Path(names[0]).exists():
        suffix = next(suffix for suffix in SHARD_SUFFIXES if pattern.lower().endswith(suffix))
        stem, suffix = pattern[: -len(suffix)], pattern[-len(suffix) :]
        names = sorted(glob.glob(pattern)) or sorted(glob.glob(f"{glob.escape(stem)}-[0-9]*{suffix}"))
    for name in names or [pattern]:
        if not Path(name).exists():
            unfinished = Path(f"{pattern}.{MANIFEST}").exists()
            advice = "; the set is not finished: run its command again" if unfinished else ""
            raise FileNotFoundError(f"there is no shard {name}{advice}")
    return [Path(name) for name in names]


class _Header(tarfile.TarInfo):
    """A header of a shard, which ends at a block of zeros and nowhere else, and has no huge names."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) < tarfile.BLOCKSIZE or any(buf):
                raise tarfile.ReadError(
                    "no zero padding after its last complete file, as after an interrupted write"
                ) from error
            raise
        if header.type in _EXTENDED and header.size > MAX_NAME_BYTES:
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a shard to be read from its start to its end; a compressed one is never decompressed twice in a pass."""
    with ExitStack() as stack:
        if path.name.lower().endswith(".tar"):
            yield stack.enter_context(tarfile.open(path, "r:", tarinfo=_Header))
        else:
            unzipped = cast("IO[bytes]", stack.enter_context(gzip.open(path)))
            yield stack.enter_context(tarfile.open(fileobj=unzipped, mode="r|", tarinfo=_Header))


def _samples(path: Path, *, with_images: bool) -> Iterator[Sample]:
    """Yield the samples of a shard.

    Raises:
        EOFError, tarfile.TarError: the shard is truncated.
        ValueError: a label is no integer, or a file is too large.
    """
    with _opened(path) as shard:
        sample = Sample("", {}, b"", None)
        while shard.offset and (member := shard.next()):  # Python 3.10's next() fails in a .tar without files
            shard.members.clear()  # type: ignore[attr-defined]  # else the headers of a shard stay in memory
            if not member.isfile() or is_ignored(member.name):
                continue
            folder, slash, base = member.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            suffix = f".{suffix.lower()}"
            if (key := folder + slash + stem) != sample.key:
                if sample.files:
                    yield sample
                sample = Sample(key, {}, b"", None)
            sample.files[suffix] = member.name
            if suffix == LABEL_SUFFIX:
                sample = sample._replace(label=_label(shard, member, path))
            elif suffix.endswith(SUFFIXES):
                require_size(f"{member.name} of {path}", member.size)
                if with_images:
                    sample = sample._replace(image=_content(shard, member))
        if sample.files:
            yield sample
        assert shard.fileobj is not None
        if any(shard.fileobj.read(TAR_PADDING)):
            raise EOFError("no zero padding after its last complete file, as after an interrupted write")


def _label(shard: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int:
    require_size(f"{member.name} of {path}", member.size, MAX_LABEL_BYTES)
    content = _content(shard, member)
    try:
        label = int(content)
        torch.tensor(label)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{member.name} of {path} is {content[:20]!r}; a label is an integer") from error
    return label


def _content(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = shard.extractfile(member)
    assert file is not None  # None is for members that are not files
    return file.read()
