# SPDX-License-Identifier: Apache-2.0
"""Verification and repair of sets: the images against the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from scoresde_fast.generate.manifest import Manifest, ShardLock, record_done
from scoresde_fast.generate.pipeline import Report
from scoresde_fast.generate.run import ImageSampler, generate
from scoresde_fast.generate.seeds import EMPTY, SeedSet, Shard
from scoresde_fast.generate.stores import Damage, Store, open_store

NAMED = 5
"""Largest number of seeds or files in a line of the findings."""


@dataclass(frozen=True)
class Findings:
    """Faults of a set; ``str`` of it has a line for each kind.

    Attributes:
        asked: number of seeds in the set.
        missing: seeds without an image.
        damaged: seeds with an image that cannot be read, or is of another size than most.
        equal: pairs of seeds with the same image.
        unasked: seeds outside the set that have an image.
        foreign: files that do not belong to the set, such as a second image of a seed.
        unfinished: half-written files of killed runs; harmless.
    """

    asked: int
    missing: SeedSet
    damaged: SeedSet
    equal: list[tuple[int, int]]
    unasked: SeedSet
    foreign: list[Path]
    unfinished: list[Path]

    @property
    def repairable(self) -> SeedSet:
        """Seeds whose images must be made again."""
        return self.missing | self.damaged | SeedSet.of(seed for pair in self.equal for seed in pair)

    @property
    def sound(self) -> bool:
        """Whether the set has no faults."""
        return not (len(self.repairable) or len(self.unasked) or self.foreign)

    def __str__(self) -> str:
        lines = [f"{self.asked} images asked for, {self.asked - len(self.missing)} there"]
        for kind, seeds in (("missing", self.missing), ("damaged", self.damaged), ("not of the set", self.unasked)):
            if len(seeds):
                lines.append(f"{kind}: {len(seeds)}, seeds {_shortened(str(seeds).split(','))}")
        if self.equal:
            lines.append(f"equal: {len(self.equal)} pairs, seeds {_shortened([f'{a} and {b}' for a, b in self.equal])}")
        for kind, paths in (("foreign", self.foreign), ("half-written", self.unfinished)):
            if paths:
                lines.append(f"{kind}: {len(paths)} files, {_shortened(list(map(str, paths)))}")
        return "\n".join([*lines, "sound" if self.sound else "not sound"])


def read_set(out: str | Path) -> tuple[Store, Manifest]:
    """Return the store of the set ``out``, and its manifest.

    Raises:
        FileNotFoundError: there is no manifest.
        DamagedManifestError: the manifest is damaged.
    """
    store = open_store(Path(out))
    if not store.manifest.exists():
        raise FileNotFoundError(2, "there is no such file, so this is not a set of samples", str(store.manifest))
    return store, Manifest.read(store.manifest)


def verify(out: str | Path, on_image: Callable[[int], object] = lambda total: None) -> Findings:
    """Read every image of a set, and change nothing; ``on_image(total)`` is called after each.

    Raises:
        FileNotFoundError: there is no manifest.
        DamagedManifestError: the manifest is damaged; `generate` makes it again.
    """
    store, manifest = read_set(out)
    asked = manifest.all_seeds()
    present = store.present(broken=True)
    damaged: list[int] = []
    by_size: dict[tuple[int, ...], list[int]] = {}
    digests: list[bytes] = []
    seeds: list[int] = []
    there = present & asked
    for seed, pixels in store.look(there):
        on_image(len(there))
        if isinstance(pixels, Damage):
            damaged.append(seed)
            continue
        by_size.setdefault(pixels.shape, []).append(seed)
        seeds.append(seed)
        digests.append(hashlib.blake2b(pixels.tobytes(), digest_size=8).digest())
    for of_a_size in sorted(by_size.values(), key=len)[:-1]:
        damaged += of_a_size
    unfinished = sorted(store.leftovers())
    return Findings(
        len(asked),
        asked - there,
        SeedSet.of(damaged),
        list(_equal(seeds, digests)),
        present - asked,
        sorted(set(store.foreign()) - set(unfinished)),
        unfinished,
    )


def repair(sampler: ImageSampler, out: str | Path, findings: Findings, *, batch_size: int = 64) -> Report:
    """Make missing, damaged and equal images again; foreign files are the user's, and are left alone.

    Raises:
        ValueError: the sampler did not make this set; and as `generate`.
    """
    store, manifest = read_set(out)
    lost = findings.repairable
    with ShardLock(store.work, Shard()):
        store.prepare()
        store.remove(lost)
        store.sync()
        record_done(store.manifest, store.work, EMPTY, lost)
    rounding = manifest.configuration.get("rounding") or "floor"
    return generate(sampler, manifest.all_seeds(), out, batch_size=batch_size, rounding=rounding, shard=Shard())


def _equal(seeds: list[int], digests: list[bytes]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of neighbours among the seeds of one digest."""
    order = np.argsort(np.array(digests, "S8"), kind="stable").tolist()
    for before, after in pairwise(order):
        if digests[before] == digests[after]:
            yield seeds[before], seeds[after]


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"
