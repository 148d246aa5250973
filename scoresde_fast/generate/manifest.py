# SPDX-License-Identifier: Apache-2.0
"""The manifest of a set, ``samples.json``, and the locks of the processes that write the set."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from scoresde_fast import __version__
from scoresde_fast.files import make_folder, not_written, replacing
from scoresde_fast.generate.seeds import EMPTY, SeedSet, Shard

Json = dict[str, Any]

POLL_SECONDS = 0.01
"""How often a waiting process looks whether the manifest is free."""
_SHARD_LOCK = re.compile(r"shard-(\d+)-of-(\d+)\.lock", re.ASCII)
_ABSENT = object()


class DamagedManifestError(ValueError):
    """A file has the name of a manifest but is not a valid one."""


class SetInUseError(ValueError):
    """Another process writes this shard, or shards that overlap with it."""


@dataclass(frozen=True)
class Manifest:
    """What a set is and which of its images are done. It records no times and no processes: equal sets, equal files.

    Attributes:
        configuration: everything that decides the bytes; equal in all runs of a set.
        seeds: one set of requested seeds for each run that added some. Each is split into batches separately, so that
            an image keeps its batch when the set grows.
        environments: versions, devices and batch sizes that images were made with, without repetition.
        done: seeds whose images are synced to the disk; None in a manifest that does not record them.
    """

    configuration: Json
    seeds: tuple[SeedSet, ...] = ()
    environments: tuple[Json, ...] = ()
    done: SeedSet | None = None

    @classmethod
    def new(cls, configuration: Json) -> Manifest:
        """Return a manifest without seeds."""
        return cls(json.loads(json.dumps(configuration)))  # tuples become lists, as in a file that is read back

    @classmethod
    def begin(cls, path: Path, configuration: Json) -> Manifest:
        """Return the manifest at ``path``, or a new one where there is no file.

        Raises:
            ValueError: the file has another configuration; the message names each value that differs.
            DamagedManifestError: the file is not a manifest.
        """
        new = cls.new(configuration)
        if not path.exists():
            return new
        manifest = cls.read(path)
        if differences := list(_differences(manifest.configuration, new.configuration)):
            raise ValueError(
                f"{path.parent if path.name == 'samples.json' else path} describes images of another configuration "
                f"({'; '.join(differences)}); choose another --out, or use the options that the set was begun with"
            )
        return manifest

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read the manifest at ``path``.

        Raises:
            DamagedManifestError: the file is not a manifest.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                dict(content["configuration"]),
                tuple(map(SeedSet.parse, content["seeds"])),
                tuple(map(dict, content["environments"])),
                SeedSet.parse(content["done"]) if "done" in content else None,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DamagedManifestError(
                f"{path} is not a valid manifest of samples ({error}); move it or choose another --out"
            ) from error

    def extended(self, seeds: SeedSet, environment: Json) -> Manifest:
        """Return this manifest with the ``seeds`` that it lacks, made in ``environment``."""
        more = seeds - self.all_seeds()
        environments = {json.dumps(known): known for known in (*self.environments, environment)}
        return replace(
            self,
            seeds=(*self.seeds, more) if len(more) else self.seeds,
            # Sorted, so that the file does not tell which process came first.
            environments=tuple(environments[text] for text in sorted(environments)),
        )

    def write(self, path: Path) -> None:
        """Replace the file at ``path`` as a whole."""
        content: Json = {
            "configuration": self.configuration,
            "seeds": [str(added) for added in self.seeds],
            "environments": self.environments,
        }
        if self.done is not None:
            content["done"] = str(self.done)
        with replacing(path) as file:
            file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def all_seeds(self) -> SeedSet:
        """Return every seed of the set."""
        return SeedSet.union(self.seeds)

    def missing(self) -> SeedSet:
        """Return the requested seeds that are not done."""
        return self.all_seeds() - (self.done or EMPTY)

    def batches(self, batch_size: int) -> Iterator[list[int]]:
        """Yield the fixed batches of the set."""
        for added in self.seeds:
            yield from added.batches(batch_size)


def record_done(path: Path, folder: Path, done: SeedSet, lost: SeedSet = EMPTY) -> None:
    """Add ``done`` to the done seeds of the manifest at ``path``, and remove ``lost``; ``folder`` has its lock."""
    with ManifestLock(folder):
        manifest = Manifest.read(path)
        replace(manifest, done=((manifest.done or EMPTY) - lost) | done).write(path)


def environment(device: torch.device | str, batch_size: int) -> Json:
    """Return the versions, the device and the batch size: what may change the last bit of an image."""
    device = torch.device(device)
    return {
        "scoresde_fast": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "batch_size": batch_size,
    }


def _differences(old: object, new: object, key: str = "") -> Iterator[str]:
    """Yield ``key.path: old there, new asked`` for every leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            path = f"{key}.{name}" if key else name
            yield from _differences(old.get(name, _ABSENT), new.get(name, _ABSENT), path)
    elif old != new:
        there, asked = ("nothing" if value is _ABSENT else json.dumps(value) for value in (old, new))
        yield f"{key}: {there} there, {asked} asked"


class _Lock:
    """An exclusive lock of the operating system, which frees it when its holder dies. Its file goes on release."""

    def __init__(self, path: Path, owner: str = "") -> None:
        self._path = path
        self._owner = owner.encode()
        self._lock = FileLock(
            path,
            thread_local=False,
            poll_interval=POLL_SECONDS,
            fallback_to_soft=False,  # a soft lock, which is no more than a file, would survive a killed process
            on_acquired=self._write_owner,
        )

    def acquire(self, *, wait: bool) -> bool:
        """Take the lock, and return whether that worked; with ``wait`` it does in the end.

        Raises:
            OSError: the file of the lock cannot be made.
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
                raise not_written(self._path, error) from error
            # Its last holder has just removed the file or the folder: try again.

    def release(self) -> None:
        """Free the lock, and remove its file, and the folder where it was the last file."""
        if self._lock.is_locked:
            # While it is held: whoever has opened the file sees that it is gone. Windows removes it after that.
            with suppress(FileNotFoundError, PermissionError):
                self._path.unlink()
            self._lock.release()
            with suppress(OSError):
                self._path.parent.rmdir()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _write_owner(self, file: int) -> None:
        os.write(file, self._owner)


class ManifestLock(_Lock):
    """Lets one process at a time read and rewrite the manifest; ``folder`` is `Store.work`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "manifest.lock")

    def __enter__(self) -> None:
        self.acquire(wait=True)


class ShardLock(_Lock):
    """Makes this process the only writer of a shard while the block runs.

    Args:
        folder: `Store.work`, where the locks are.
        shard: the shard.
        when_alone: called first if no other process writes the set; none can begin meanwhile.

    Raises:
        SetInUseError: another process writes this shard, or the set is being made in another number of shards.
    """

    def __init__(self, folder: Path, shard: Shard, when_alone: Callable[[], None] = lambda: None) -> None:
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        super().__init__(folder / f"shard-{shard.index}-of-{shard.count}.lock", owner)
        self._folder, self._shard, self._when_alone = folder, shard, when_alone

    def __enter__(self) -> None:
        with ManifestLock(self._folder):  # other processes begin one after another
            others = list(_writers(self._folder))
            for other, owner in others:
                if other == self._shard:
                    raise SetInUseError(
                        f"{owner} is writing {_named(other)} of this set; wait for it, or stop it and start again"
                    )
                if other.count != self._shard.count:
                    raise SetInUseError(
                        f"{owner} is writing {_named(other)} of this set, and {_named(self._shard)} would overlap; "
                        f"wait until all of {other.count} have ended, or stop them, and start again"
                    )
            if not others:
                self._when_alone()
            if not self.acquire(wait=False):
                raise SetInUseError(f"another process is writing {_named(self._shard)} of this set; wait for it")


def _writers(folder: Path) -> Iterator[tuple[Shard, str]]:
    """Yield the shards that are being written, and their writers; remove the lock files of dead ones."""
    for path in sorted(folder.iterdir()):
        if match := _SHARD_LOCK.fullmatch(path.name):
            lock = _Lock(path)
            if lock.acquire(wait=False):
                lock.release()
                continue
            owner = ""
            with suppress(OSError):  # it has just ended, or Windows locks the text too
                owner = path.read_text()
            yield Shard(int(match[1]), int(match[2])), owner or "another process"


def _named(shard: Shard) -> str:
    return "all" if shard.count == 1 else f"shard {shard}"
