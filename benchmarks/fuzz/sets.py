# SPDX-License-Identifier: Apache-2.0
"""Faults of sets on disk: killed writers, and damaged files."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import struct
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor

from benchmarks.fuzz.cases import TRACEBACK, UNDETECTED, Case, Outcome, cause_of, judged
from scoresde_fast.generate import Shard, generate
from scoresde_fast.generate.stores import open_store
from scoresde_fast.generate.verify import Findings, verify
from tests.support.stub_sampler import OUTS, StubSampler, files

SEEDS = range(9_984, 10_016)
"""Seeds in two subfolders, two .tar files, and two blocks of sixteen, of which each of two shards takes one."""
FEW_SEEDS = SEEDS[8:-8]
BATCH = 4
FILE_OPERATIONS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "fcntl.flock"})


class Pictures(StubSampler):
    """Fixed 8x8 images of uniform noise, each of its seed."""

    def image(self, seed: int) -> Tensor:
        return torch.randint(256, (3, 8, 8), generator=torch.Generator().manual_seed(seed)) / 255


def write(out: Path, seeds: range = SEEDS, shard: Shard | None = None) -> None:
    """Write a set with few images in a batch; ``shard`` defaults to the whole set."""
    generate(Pictures(), seeds, out, batch_size=BATCH, shard=shard or Shard(), progress=False)


# Kills


def kills(random: Random, count: int, shared: Path) -> Iterator[Case]:
    """Writers killed two to five times, one or two at once, then resumed: the bytes are those of an undisturbed set."""
    undisturbed = {}
    for out in OUTS:
        folder = shared / f"{out}.undisturbed"
        folder.mkdir()
        undisturbed[out] = (*_Child(_timed_write, folder / out).result(), files(folder))
    for index in range(count):
        out = OUTS[index % len(OUTS)]
        plan = [_Kill.drawn(random, *undisturbed[out][:2]) for _ in range(random.randint(2, 5))]
        shards = random.choice((1, 2))
        what = f"{out}: {', '.join(map(str, plan))}; resumed by {shards}"
        yield Case(out, what, partial(_killed, out, plan, shards, undisturbed[out][2]))


@dataclass(frozen=True)
class _Kill:
    """A kill of ``shards`` writers: after ``seconds``, or before each one's file operation of this number."""

    shards: int
    seconds: float | None
    operation: int | None

    @classmethod
    def drawn(cls, random: Random, seconds: float, operations: int) -> _Kill:
        shards = random.choice((1, 1, 2))
        if random.random() < 0.5:
            return cls(shards, random.uniform(0, 1.1 * seconds), None)
        return cls(shards, None, random.randint(1, operations // shards))

    def __str__(self) -> str:
        when = f"operation {self.operation}" if self.seconds is None else f"{1000 * self.seconds:.0f} ms"
        return f"{self.shards} at {when}"

    def strike(self, out: Path) -> int:
        """Start the writers and kill them; return the number that were killed rather than done."""
        context = multiprocessing.get_context("fork")
        writers = [
            context.Process(target=_write_until, args=(out, Shard(index, self.shards), self.operation))
            for index in range(self.shards)
        ]
        for writer in writers:
            writer.start()
        if self.seconds is not None:
            time.sleep(self.seconds)
            for writer in writers:
                writer.kill()
        for writer in writers:
            writer.join()
        return sum(writer.exitcode == -signal.SIGKILL for writer in writers)


def _write_until(out: Path, shard: Shard, operation: int | None) -> None:
    if operation is not None:
        left = iter(range(operation - 1))

        def count_down(event: str, arguments: object) -> None:
            if event in FILE_OPERATIONS and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count_down)
    write(out, shard=shard)


def _timed_write(out: Path) -> tuple[float, int]:
    """Write a set undisturbed and return its seconds and file operations."""
    operations = 0

    def count(event: str, arguments: object) -> None:
        nonlocal operations
        operations += event in FILE_OPERATIONS

    sys.addaudithook(count)
    start = time.monotonic()
    write(out)
    return time.monotonic() - start, operations


def _killed(out: str, plan: list[_Kill], shards: int, undisturbed: dict[str, bytes], folder: Path) -> Outcome:
    killed = 0
    for kill in plan:
        killed += kill.strike(folder / out)
        findings = _Child(_findings_if_begun, folder / out).result()
        if isinstance(findings, str):
            return Outcome(TRACEBACK, "verify after a kill", findings, killed)
        if findings and (len(findings.damaged) or findings.foreign or findings.equal):
            return Outcome(UNDETECTED, "damaged by a kill", " ".join(str(findings).split()), killed)
    writers = [_Child(write, folder / out, SEEDS, Shard(index, shards)) for index in range(shards)]
    for error in [writer.result() for writer in writers]:
        if error:
            return Outcome(TRACEBACK, "resuming", error, killed)
    findings = _Child(verify, folder / out).result()
    final = files(folder)
    different = sorted(name for name in {*final, *undisturbed} if final.get(name) != undisturbed.get(name))
    if different or isinstance(findings, str) or not findings.sound:
        return Outcome(UNDETECTED, "other bytes after resuming", f"{', '.join(different)}; verify: {findings}", killed)
    return Outcome(tries=killed)


def _findings_if_begun(out: Path) -> Findings | None:
    return verify(out) if open_store(out).manifest.exists() else None


class _Child:
    """A forked process that calls a function; this process has no threads, and starts none."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_send_result, args=(theirs, function, *arguments))
        self._process.start()
        theirs.close()

    def result(self) -> Any:
        """Return the result of the function, or the description of its error."""
        try:
            return self._pipe.recv()
        except EOFError:
            return "the process ended without a result"
        finally:
            self._process.join()
            self._pipe.close()


def _send_result(pipe: Connection, function: Callable[..., Any], *arguments: Any) -> None:
    try:
        pipe.send(function(*arguments))
    except Exception as error:
        pipe.send(f"{cause_of(error)}: {error}")


# Damage

PLACE_TAKERS: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a dangling link": lambda path: path.symlink_to("nothing"),
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "an empty file": Path.touch,
}
"""What may lie in the place of a file."""
PLACES_TAKEN = 0.01
"""Part of the cases in which something else lies in the place of a file."""


def damage(random: Random, content: bytes) -> tuple[str, int, bytes]:
    """Return a description, the first byte, and the damaged content: a bit, a byte, a cut end, or a block of zeros."""
    while True:
        offset = random.randrange(len(content))
        kind = random.choice(("bit", "bit", "byte", "cut", "zeros"))
        if kind == "bit":
            bit = random.randrange(8)
            what, damaged = (
                f"bit {bit} of byte {offset}",
                _replaced(content, offset, bytes([content[offset] ^ 1 << bit])),
            )
        elif kind == "byte":
            value = random.randrange(256)
            what, damaged = f"byte {offset} = {value}", _replaced(content, offset, bytes([value]))
        elif kind == "cut":
            what, damaged = f"cut to {offset} bytes", content[:offset]
        else:
            block = content[offset : offset + random.choice((4, 64, 512))]
            what, damaged = f"{len(block)} zeros at {offset}", _replaced(content, offset, bytes(len(block)))
        if damaged != content:
            return what, offset, damaged


def _replaced(content: bytes, offset: int, part: bytes) -> bytes:
    return content[:offset] + part + content[offset + len(part) :]


def flips(random: Random, count: int, shared: Path) -> Iterator[Case]:
    """One damaged file of a set; verify must find every one."""
    targets = []
    for name in OUTS:
        (shared / f"of_{name}").mkdir()
        write(path := shared / f"of_{name}" / name, FEW_SEEDS)
        manifest = open_store(path).manifest
        data = [file for file in path.parent.rglob("*") if file.is_file() and "grid" not in file.name]
        targets.append((path, sorted({*data} - {manifest})))
        targets.append((path, [manifest]))
    contents = {file: file.read_bytes() for _, group in targets for file in group}
    images = {out: _images(out) for out, _ in targets}
    for index in range(count):
        # The images of each format, and the manifest, which all formats share, get equal numbers.
        group_index = index % (len(OUTS) + 1)
        out, group = targets[2 * group_index] if group_index < len(OUTS) else random.choice(targets[1::2])
        file = random.choice(group)
        format = "manifest" if file.suffix == ".json" else out.suffix or "folder"
        if random.random() < PLACES_TAKEN:
            what = random.choice(list(PLACE_TAKERS))
            taken = partial(_place_taken, out, file, contents[file], PLACE_TAKERS[what])
            yield Case(f"{format}: place taken", f"{what} as {file.name}", taken)
            continue
        what, offset, damaged = damage(random, contents[file])
        part = "cut end" if what.startswith("cut") else _part(file, contents[file], offset)
        yield Case(
            f"{format}: {part}",
            f"{file.name}, {what}",
            partial(_damaged, out, file, contents[file], damaged, images[out]),
        )


def _images(out: Path) -> dict[int, bytes]:
    store = open_store(out)
    return {seed: pixels.tobytes() for seed, pixels in store.read(store.present())}


def _damaged(out: Path, file: Path, content: bytes, damaged: bytes, images: dict[int, bytes], folder: Path) -> Outcome:
    def undetected() -> str:
        if file.suffix == ".json":
            return f"the manifest says {'the same' if json.loads(content) == json.loads(damaged) else 'something else'}"
        return f"the images are {'the same' if _images(out) == images else 'others'}"

    file.write_bytes(damaged)
    try:
        return _judge_set(out, undetected)
    finally:
        file.write_bytes(content)


def _place_taken(out: Path, file: Path, content: bytes, take_place: Callable[[Path], object], folder: Path) -> Outcome:
    file.unlink()
    take_place(file)
    try:
        return _judge_set(out, lambda: "another kind of file")
    finally:
        if file.is_dir():
            shutil.rmtree(file)
        file.unlink(missing_ok=True)
        file.write_bytes(content)


def _judge_set(out: Path, undetected: Callable[[], str]) -> Outcome:
    sound = False

    def check() -> None:
        nonlocal sound
        sound = verify(out).sound

    outcome = judged(check)
    return Outcome(UNDETECTED, undetected()) if sound else outcome


def _part(file: Path, content: bytes, offset: int) -> str:
    """Name the part of a file to which a byte belongs."""
    starts = sorted(_PARTS[file.suffix](content))
    return next(name for start, name in reversed(starts) if start <= offset)


Starts = Iterator[tuple[int, str]]


def _png_parts(content: bytes) -> Starts:
    yield 0, "signature"
    offset = 8
    while offset < len(content):
        (length,) = struct.unpack(">I", content[offset : offset + 4])
        yield offset, content[offset + 4 : offset + 8].decode()
        offset += 12 + length


def _zip_parts(content: bytes) -> Starts:
    with ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            name = "PNGs" if member.filename.endswith(".png") else member.filename
            yield member.header_offset, f"headers of {name}"
            lengths = struct.unpack("<HH", content[member.header_offset + 26 : member.header_offset + 30])
            data = member.header_offset + 30 + sum(lengths)
            yield data, name
            if name == "arr_0.npy":
                yield data, ".npy header"
                yield data + 10 + int.from_bytes(content[data + 8 : data + 10], "little"), "pixels"
        yield archive.start_dir, "directory"
        yield content.rindex(b"PK\5\6"), "end record"


def _tar_parts(content: bytes) -> Starts:
    yield 0, "global header"
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            yield member.offset, "headers of PNGs"
            yield member.offset_data, "PNGs"
            yield member.offset_data + member.size, "padding"
        yield archive.offset, "end"


def _npy_parts(content: bytes) -> Starts:
    header = 10 + int.from_bytes(content[8:10], "little")
    yield from ((0, ".npy header"), (header, "pixels"), (len(content) - 8 * len(FEW_SEEDS), "seeds"))


def _manifest_parts(content: bytes) -> Starts:
    yield 0, "braces"
    for match in re.finditer(rb'^  "(\w+)"', content, re.MULTILINE):
        yield match.start(), match[1].decode()


_PARTS: dict[str, Callable[[bytes], Starts]] = {
    ".png": _png_parts, ".npz": _zip_parts, ".zip": _zip_parts, ".tar": _tar_parts, ".npy": _npy_parts,
    ".json": _manifest_parts, ".sha256": lambda content: iter([(0, "digests")]),
}  # fmt: skip
