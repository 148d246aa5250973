# SPDX-License-Identifier: Apache-2.0
"""The manifest of a set, ``samples.json``, and the locks for processes that write the set."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde_fast import __version__
from scoresde_fast.data.file_names import is_image
from scoresde_fast.data.sample_sets import MAX_MANIFEST_BYTES
from scoresde_fast.errors import LISTED
from scoresde_fast.files import read_file, replacing
from scoresde_fast.generate.digests import append_digests
from scoresde_fast.generate.seeds import EMPTY, SeedSet, Shard
from scoresde_fast.generate.stores import Store
from scoresde_fast.locks import ProcessLock

Json = dict[str, Any]

DESCRIPTIONS = {
    "samples.json": "a set of samples",
    "run.json": "conditional samples",
    "state.pt": "a training run",
    "config.json": "a saved model",
}
"""Files by which a folder is recognised, and what it then is."""
FIRST_ENTRIES = {"configuration", "seeds", "environments", "done"}
"""Entries of manifests without a SHA-256, which the first versions wrote."""
"""Interval at which a waiting process tries to lock the manifest."""
_SHARD_LOCK = re.compile(r"shard-(\d+)-of-(\d+)\.lock", re.ASCII)


class DamagedManifestError(ValueError):
    """A file with the name of a manifest is not a valid manifest."""


class SetInUseError(ValueError):
    """Another process is writing this shard, or shards that overlap with it."""


@dataclass(frozen=True)
class Manifest:
    """The configuration of a set and its finished images, without times or process ids.

    Attributes:
        configuration: the settings that determine the output; the same in all runs of a set.
        seeds: one set for each run that requested new seeds. Each is split into batches separately, so that an image
            keeps its batch when the set grows.
        environments: the distinct versions, devices and batch sizes that generated images.
        done: seeds whose images are synced to disk; None in a manifest that does not record them.
        digests: the SHA-256 of the digests of a finished set; None before.
    """

    configuration: Json
    seeds: tuple[SeedSet, ...] = ()
    environments: tuple[Json, ...] = ()
    done: SeedSet | None = None
    digests: str | None = None

    @classmethod
    def new(cls, configuration: Json) -> Manifest:
        """Return a manifest without seeds."""
        return cls(json.loads(json.dumps(configuration)))  # tuples become lists, as when a manifest is read from a file

    @classmethod
    def begin(cls, path: Path, configuration: Json) -> Manifest:
        """Return the manifest at ``path``, or a new one if there is no file.

        Raises:
            ValueError: the file has another configuration; the message names each value that differs.
            DamagedManifestError: the file is not a valid manifest.
        """
        new = cls.new(configuration)
        if not path.exists():
            return new
        manifest = cls.read(path)
        if different := list(differences(manifest.configuration, new.configuration)):
            more = f"; and {len(different) - LISTED} more" if len(different) > LISTED else ""
            raise ValueError(
                f"{path.parent if path.name == 'samples.json' else path} was generated with another configuration "
                f"({'; '.join(different[:LISTED])}{more}); choose another --out, or use the original options of the set"
            )
        return manifest

    @classmethod
    def read(cls, path: Path, advice: str = "move it or choose another --out") -> Manifest:
        """Read the manifest at ``path``; ``advice`` is for the message if it is damaged.

        Raises:
            DamagedManifestError: the file is not a valid manifest.
        """
        try:
            if path.stat().st_size > MAX_MANIFEST_BYTES:
                raise ValueError(f"it has more than {MAX_MANIFEST_BYTES} bytes")
            text = read_file(path).decode()
            content = json.loads(text)
            sha256 = content.pop("sha256", None)
            if text != _text(content) if sha256 is not None else not content.keys() <= FIRST_ENTRIES:
                raise ValueError("its content does not match its SHA-256")
            return cls(
                dict(content["configuration"]),
                tuple(map(SeedSet.parse, content["seeds"])),
                tuple(map(dict, content["environments"])),
                SeedSet.parse(content["done"]) if "done" in content else None,
                content.get("digests"),
            )
        except KeyError as error:
            raise DamagedManifestError(
                f"{path} is not a valid manifest of samples (it has no {error}); {advice}"
            ) from error
        except (AttributeError, RecursionError, TypeError, ValueError) as error:
            raise DamagedManifestError(f"{path} is not a valid manifest of samples ({error}); {advice}") from error

    def extended(self, seeds: SeedSet, environment: Json) -> Manifest:
        """Return a manifest that also has ``environment`` and all of ``seeds``."""
        new_seeds = seeds - self.all_seeds()
        environments = {json.dumps(each): each for each in (*self.environments, environment)}
        return replace(
            self,
            seeds=(*self.seeds, new_seeds) if len(new_seeds) else self.seeds,
            # Sorted, so that the file does not depend on which process came first.
            environments=tuple(environments[key] for key in sorted(environments)),
        )

    def write(self, path: Path) -> None:
        """Write the manifest to ``path``, atomically."""
        content: Json = {
            "configuration": self.configuration,
            "seeds": [str(seeds) for seeds in self.seeds],
            "environments": self.environments,
        }
        if self.done is not None:
            content["done"] = str(self.done)
        if self.digests is not None:
            content["digests"] = self.digests
        with replacing(path) as file:
            file.write(_text(content).encode())

    def all_seeds(self) -> SeedSet:
        """Return all requested seeds."""
        return SeedSet.union(self.seeds)

    def missing(self) -> SeedSet:
        """Return the requested seeds that are not done."""
        return self.all_seeds() - (self.done or EMPTY)

    def batches(self, batch_size: int) -> Iterator[list[int]]:
        """Yield the batches of the set; they do not depend on which images are finished."""
        for seeds in self.seeds:
            yield from seeds.batches(batch_size)


def _text(content: Json) -> str:
    """Return the text of a manifest; its last entry is the SHA-256 of the others."""
    sha256 = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "sha256": sha256}, indent=2, ensure_ascii=False) + "\n"


def record_done(store: Store, digests: Mapping[int, str], *, lost: SeedSet = EMPTY) -> None:
    """Append ``digests`` of synced images, and add their seeds to the manifest's done ones, without ``lost``."""
    with ManifestLock(store.work):
        manifest = Manifest.read(store.manifest)
        if digests:
            append_digests(store, digests)
        done = ((manifest.done or EMPTY) - lost) | SeedSet.of(digests)
        replace(manifest, done=done, digests=None).write(store.manifest)


def data_sha256(data: Tensor) -> str:
    """Return the SHA-256 of a tensor: its dtype, shape and values."""
    digest = hashlib.sha256(json.dumps([str(data.dtype), list(data.shape)]).encode())
    digest.update(data.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def environment(device: torch.device | str, batch_size: int) -> Json:
    """Return the versions, the device and the batch size, which may change the last bit of an image."""
    device = torch.device(device)
    return {
        "scoresde_fast": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "batch_size": batch_size,
    }


def differences(old: object, new: object, key: str = "") -> Iterator[str]:
    """Yield ``key.path: OLD saved, NEW requested`` for every value that differs.

    A missing key equals None, so that sets can be resumed when a later version adds an option with the default None.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            path = f"{key}.{name}" if key else name
            yield from differences(old.get(name), new.get(name), path)
    elif old != new:
        saved, requested = ("none" if value is None else json.dumps(value) for value in (old, new))
        yield f"{key}: {saved} saved, {requested} requested"


def require_unused(folder: Path, own: str) -> None:
    """Raise ValueError if a folder belongs to something else than the file ``own`` describes."""
    for name, kind in DESCRIPTIONS.items():
        if name != own and (folder / name).exists():
            raise ValueError(f"{folder} is the folder of {kind} (it has {name}); choose another --out")


def require_no_images(folder: Path, manifest: Path) -> None:
    """Raise ValueError if a folder, which has no manifest yet, belongs to something else or has somebody's images."""
    require_unused(folder, manifest.name)
    if folder.is_dir() and any(is_image(entry.name) for entry in os.scandir(folder)):
        raise ValueError(f"{folder} has images but no {manifest.name}; choose another --out or move them")


class ManifestLock(ProcessLock):
    """Lock under which one process at a time reads and rewrites the manifest; ``work`` is `Store.work`."""

    def __init__(self, work: Path) -> None:
        super().__init__(work / "manifest.lock")

    def __enter__(self) -> None:
        self.acquire(wait=True)


class ShardLock(ProcessLock):
    """Lock that makes this process the only writer of a shard.

    Args:
        work: `Store.work`, the folder of the locks.
        shard: the shard.
        when_alone: called first if no other process is writing the set; no other process can start during the call.

    Raises:
        SetInUseError: another process is writing this shard, or the set is being written in another number of shards.
    """

    def __init__(self, work: Path, shard: Shard, when_alone: Callable[[], None] = lambda: None) -> None:
        super().__init__(work / f"shard-{shard.index}-of-{shard.count}.lock")
        self._work, self._shard, self._when_alone = work, shard, when_alone

    def __enter__(self) -> None:
        with ManifestLock(self._work):  # one process at a time checks the other locks and takes its own
            writers = list(_writers(self._work))
            for shard, owner in writers:
                if shard == self._shard:
                    raise SetInUseError(
                        f"{owner} is writing {_describe(shard)} of this set; wait for it, or stop it and start again"
                    )
                if shard.count != self._shard.count:
                    raise SetInUseError(
                        f"{owner} is writing {_describe(shard)} of this set, which overlaps with "
                        f"{_describe(self._shard)}; wait for all {shard.count} shards, or stop their processes, and "
                        "start again"
                    )
            if not writers:
                self._when_alone()
            if not self.acquire(wait=False):
                raise SetInUseError(f"another process is writing {_describe(self._shard)} of this set; wait for it")


def _writers(work: Path) -> Iterator[tuple[Shard, str]]:
    """Yield (shard, owner) for the shards that are being written; remove the lock files of dead processes."""
    for path in sorted(work.iterdir()):
        if match := _SHARD_LOCK.fullmatch(path.name):
            lock = ProcessLock(path)
            if lock.acquire(wait=False):
                lock.release()
                continue
            yield Shard(int(match[1]), int(match[2])), lock.owner


def _describe(shard: Shard) -> str:
    return "all" if shard.count == 1 else f"shard {shard}"
