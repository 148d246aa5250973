# SPDX-License-Identifier: Apache-2.0
"""Verification of sets against their manifests, and repair."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from scoresde_fast.generate.manifest import Manifest, ShardLock, record_done
from scoresde_fast.generate.pipeline import Report
from scoresde_fast.generate.run import ImageSampler, generate, set_configuration
from scoresde_fast.generate.seeds import SeedSet, Shard
from scoresde_fast.generate.stores import Store, open_store

MAX_LISTED = 5
"""Largest number of seeds or files in a line of the findings."""


@dataclass(frozen=True)
class Findings:
    """Faults of a set; ``str`` gives a line for each kind.

    Attributes:
        requested: number of seeds in the set.
        missing: seeds without an image.
        damaged: seeds whose image cannot be read or has another size than most images of the set.
        equal: pairs of seeds with the same image.
        unrequested: seeds that have an image but are not in the set.
        foreign: files that do not belong to the set, such as a second image of a seed.
        unfinished: incomplete files of killed runs; harmless.
    """

    requested: int
    missing: SeedSet
    damaged: SeedSet
    equal: list[tuple[int, int]]
    unrequested: SeedSet
    foreign: list[Path]
    unfinished: list[Path]

    @property
    def repairable(self) -> SeedSet:
        """Seeds whose images must be generated again."""
        return self.missing | self.damaged | SeedSet.of(seed for pair in self.equal for seed in pair)

    @property
    def sound(self) -> bool:
        """Whether the set has no faults."""
        return not (len(self.repairable) or len(self.unrequested) or self.foreign)

    def __str__(self) -> str:
        lines = [f"{self.requested} images requested, {self.requested - len(self.missing)} present"]
        by_kind = {"missing": self.missing, "damaged": self.damaged, "not requested": self.unrequested}
        for kind, seeds in by_kind.items():
            if len(seeds):
                lines.append(f"{kind}: {len(seeds)}, seeds {_shorten(str(seeds).split(','))}")
        if self.equal:
            lines.append(f"equal: {len(self.equal)} pairs, seeds {_shorten([f'{a} and {b}' for a, b in self.equal])}")
        for kind, paths in (("foreign", self.foreign), ("unfinished", self.unfinished)):
            if paths:
                lines.append(f"{kind}: {len(paths)} files, {_shorten(list(map(str, paths)))}")
        return "\n".join([*lines, "sound" if self.sound else "not sound"])


def read_set(out: str | Path) -> tuple[Store, Manifest]:
    """Return the store and the manifest of the set ``out``.

    Raises:
        FileNotFoundError: there is no manifest.
        DamagedManifestError: the manifest is damaged.
    """
    store = open_store(Path(out))
    if not store.manifest.exists():
        raise FileNotFoundError(2, "no such file, so this is not a set of samples", str(store.manifest))
    return store, Manifest.read(store.manifest)


def verify(out: str | Path, on_image: Callable[[int], object] = lambda total: None) -> Findings:
    """Read every image of a set, change nothing, and return the faults; ``on_image(total)`` is called for each image.

    Raises:
        FileNotFoundError: there is no manifest.
        DamagedManifestError: the manifest is damaged; `generate` rebuilds it.
    """
    store, manifest = read_set(out)
    requested = manifest.all_seeds()
    present = store.present(ignore_broken=True)
    expected = present & requested
    damaged: list[int] = []
    by_shape: dict[tuple[int, ...], list[int]] = {}
    seeds: list[int] = []
    hashes: list[bytes] = []
    for seed, pixels in store.try_read(expected):
        on_image(len(expected))
        if isinstance(pixels, Exception):
            damaged.append(seed)
            continue
        by_shape.setdefault(pixels.shape, []).append(seed)
        seeds.append(seed)
        hashes.append(hashlib.blake2b(pixels.tobytes(), digest_size=8).digest())
    for seeds_of_rare_shape in sorted(by_shape.values(), key=len)[:-1]:
        damaged += seeds_of_rare_shape
    unfinished = sorted(store.leftovers())
    return Findings(
        requested=len(requested),
        missing=requested - expected,
        damaged=SeedSet.of(damaged),
        equal=list(_equal_pairs(seeds, hashes)),
        unrequested=present - requested,
        foreign=sorted(set(store.foreign()) - set(unfinished)),
        unfinished=unfinished,
    )


def repair(sampler: ImageSampler, out: str | Path, findings: Findings, *, batch_size: int = 64) -> Report:
    """Generate missing, damaged and equal images again; foreign files are left alone.

    Raises:
        ValueError: the sampler does not match the configuration of the set; nothing is changed. Also as `generate`.
    """
    store, manifest = read_set(out)
    rounding = manifest.configuration.get("rounding") or "floor"
    # Raises if the sampler does not match, before any image is removed.
    Manifest.begin(store.manifest, set_configuration(sampler, store, batch_size=batch_size, rounding=rounding))
    with ShardLock(store.work, Shard()):
        store.remove(findings.repairable)
        store.sync()
        record_done(store, lost=findings.repairable)
    return generate(sampler, manifest.all_seeds(), out, batch_size=batch_size, rounding=rounding, shard=Shard())


def _equal_pairs(seeds: list[int], hashes: list[bytes]) -> Iterator[tuple[int, int]]:
    """Yield pairs of seeds with equal hashes; of several seeds with one hash, each seed and the next."""
    order = np.argsort(np.array(hashes, "S8"), kind="stable").tolist()
    for before, after in pairwise(order):
        if hashes[before] == hashes[after]:
            yield seeds[before], seeds[after]


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"{', '.join(names[:MAX_LISTED])}{more}"
