# SPDX-License-Identifier: Apache-2.0
"""Verification of sets against their manifests and digests, and repair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from scoresde_fast.data.codecs import Pixels, decode_verified_png
from scoresde_fast.files import read_file, user_path
from scoresde_fast.generate.digests import Digests, digest, file_digest
from scoresde_fast.generate.manifest import DamagedManifestError, Manifest, ShardLock, record_done
from scoresde_fast.generate.pipeline import Report
from scoresde_fast.generate.run import ImageSampler, generate, grid_of, set_configuration
from scoresde_fast.generate.seeds import EMPTY, SeedSet, Shard
from scoresde_fast.generate.stores import Store, Stored, open_store

MAX_LISTED = 5
"""Largest number of seeds or files in a line of the findings."""


@dataclass(frozen=True)
class Findings:
    """Faults of a set; ``str`` gives a line for each kind.

    Attributes:
        requested: number of seeds in the set.
        missing: seeds without an image.
        damaged: seed -> the reason, for images that cannot be read or do not match their digest.
        damaged_files: path -> the reason, for archives, the grid and the file of digests.
        equal: pairs of seeds with the same image.
        unrequested: seeds that have an image but are not in the set.
        foreign: files, links and folders that do not belong to the set, such as a second image of a seed.
        unfinished: incomplete files of killed runs; harmless.
    """

    requested: int
    missing: SeedSet
    damaged: dict[int, str]
    damaged_files: dict[Path, str]
    equal: list[tuple[int, int]]
    unrequested: SeedSet
    foreign: list[Path]
    unfinished: list[Path]

    @property
    def repairable(self) -> SeedSet:
        """Seeds whose images must be generated again."""
        return self.missing | SeedSet.of(self.damaged) | SeedSet.of(seed for pair in self.equal for seed in pair)

    @property
    def sound(self) -> bool:
        """Whether the set has no faults."""
        return not (len(self.repairable) or self.damaged_files or len(self.unrequested) or self.foreign)

    def __str__(self) -> str:
        lines = [f"{self.requested} images requested, {self.requested - len(self.missing)} present"]
        damaged = SeedSet.of(self.damaged)
        for kind, seeds in (("missing", self.missing), ("damaged", damaged), ("not requested", self.unrequested)):
            if len(seeds):
                lines.append(f"{kind}: {len(seeds)}, seeds {_shorten(str(seeds).split(','))}")
        lines += [f"seed {seed}: {reason}" for seed, reason in islice(self.damaged.items(), MAX_LISTED)]
        if self.equal:
            lines.append(f"equal: {len(self.equal)} pairs, seeds {_shorten([f'{a} and {b}' for a, b in self.equal])}")
        lines += [f"damaged: {path}: {reason}" for path, reason in self.damaged_files.items()]
        for kind, paths in (("foreign", self.foreign), ("unfinished", self.unfinished)):
            if paths:
                lines.append(f"{kind}: {len(paths)} files, {_shorten(list(map(_described, paths)))}")
        return "\n".join([*lines, "sound" if self.sound else "not sound"])


def read_set(out: str | Path) -> tuple[Store, Manifest]:
    """Return the store and the manifest of the set ``out``.

    Raises:
        FileNotFoundError: there is no manifest.
        DamagedManifestError: the manifest is damaged.
    """
    store = open_store(user_path(out))
    if not store.manifest.exists():
        raise FileNotFoundError(f"{store.manifest}: no such file, so this is not a set of samples")
    manifest = Manifest.read(store.manifest, "the command that made the set rebuilds it from the images")
    if not isinstance(manifest.configuration.get("sampler"), dict):
        raise DamagedManifestError(f"{store.manifest} does not describe a sampler, so it is not the manifest of a set")
    return store, manifest


def verify(out: str | Path, on_image: Callable[[int], object] = lambda total: None) -> Findings:
    """Check every file of a set, change nothing, and return the faults; ``on_image(total)`` is called for each image.

    An image is intact if its bytes have the digest of the bytes that were written.  The images of an archive that has
    its own digest are not read one by one.

    Raises:
        FileNotFoundError: there is no manifest.
        DamagedManifestError: the manifest is damaged; `generate` rebuilds it.
    """
    store, manifest = read_set(out)
    requested, digests = manifest.all_seeds(), Digests.read(store)
    present = store.present(ignore_broken=True)
    expected = present & requested
    recorded = store.digests.is_file()
    damaged: dict[int, str] = {}
    damaged_files: dict[Path, str] = {}
    proved: dict[int, str] = {}  # seed -> digest
    if not recorded:
        damaged_files[store.digests] = "it is missing; --repair writes it again"
    elif manifest.digests is not None and manifest.digests != file_digest(store.digests):
        damaged_files[store.digests] = "it does not match the manifest; --repair writes it again"
    complete = expected == requested
    for path in store.archives() if recorded else []:
        value = digests.files.get(path.name)
        if value is None:
            if complete:  # else the archive is assembled later
                damaged_files[path] = "it has no digest; --repair assembles it again"
        elif reason := _fault_of_file(path, value):
            damaged_files[path] = reason
        else:
            held = store.seeds_in(path) & expected
            proved |= {seed: value for seed in held if (value := digests.images.get(seed))}
    done = manifest.done or EMPTY
    unproved, total = expected - SeedSet.of_array(np.fromiter(proved, np.int64)), len(expected)
    for _ in proved:
        on_image(total)
    for seed, image in store.try_load(unproved):
        on_image(total)
        if reason := _fault_of_image(store, image, digests.images.get(seed), digested=recorded and seed in done):
            damaged[seed] = reason
        elif not isinstance(image, Exception):
            proved[seed] = digest(image)
    if complete and not damaged and store.grid.exists() and not _shows(store.grid, grid_of(store, requested)):
        damaged_files[store.grid] = "it does not show the first images of the set"
    unfinished = sorted(store.leftovers())
    return Findings(
        requested=len(requested),
        missing=requested - expected,
        damaged=damaged,
        damaged_files=damaged_files,
        equal=list(_equal_pairs(proved)),
        unrequested=present - requested,
        foreign=sorted(set(store.foreign()) - set(unfinished)),
        unfinished=unfinished,
    )


def require_sound(out: str | Path) -> None:
    """Raise ValueError unless `verify` finds the set ``out`` sound; raise also as `verify`."""
    findings = verify(out)
    if not findings.sound:
        faults = "; ".join(str(findings).splitlines()[1:-1])
        raise ValueError(f"{out} is not sound ({faults}); repair it: scoresde-fast verify {out} --repair")


def _fault_of_file(path: Path, expected: str) -> str | None:
    try:
        return None if file_digest(path) == expected else "it does not match its digest"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _shows(grid: Path, pixels: Pixels) -> bool:
    """Return whether a PNG is intact and has these pixels."""
    try:
        return np.array_equal(decode_verified_png(read_file(grid)), pixels)
    except (OSError, ValueError):
        return False


def _fault_of_image(store: Store, image: Stored | Exception, expected: str | None, *, digested: bool) -> str | None:
    """Return the fault of an image, or None; an image without a digest yet is intact if it can be decoded."""
    if not isinstance(image, Exception):
        if digested:
            if expected is None:
                return "it has no digest"
            return None if digest(image) == expected else "it does not match its digest"
        decoded = store.try_decode(image)
        if not isinstance(decoded, Exception):
            return None
        image = decoded
    return (image.strerror if isinstance(image, OSError) else str(image)) or type(image).__name__


def repair(sampler: ImageSampler, out: str | Path, findings: Findings, *, batch_size: int = 64) -> Report:
    """Generate missing, damaged and equal images again, and assemble damaged archives; foreign files are left alone.

    Raises:
        ValueError: the sampler does not match the configuration of the set; nothing is changed. Also as `generate`.
    """
    store, manifest = read_set(out)
    rounding = manifest.configuration.get("rounding") or "floor"
    # Raises if the sampler does not match, before any image is removed.
    Manifest.begin(store.manifest, set_configuration(sampler, store, batch_size=batch_size, rounding=rounding))
    with ShardLock(store.work, Shard()):
        lost = findings.repairable
        if len(lost) and store.digests in findings.damaged_files:
            lost = manifest.all_seeds()  # nothing proves the other images
        store.remove(lost, findings.damaged_files)
        for path in (store.grid, store.digests):
            if path in findings.damaged_files:
                path.unlink(missing_ok=True)
        store.sync()
        if len(lost):
            record_done(store, {}, lost=lost)
    return generate(sampler, manifest.all_seeds(), out, batch_size=batch_size, rounding=rounding, shard=Shard())


def _equal_pairs(digests: Mapping[int, str]) -> Iterator[tuple[int, int]]:
    """Yield pairs of seeds with equal digests; of several seeds with one digest, each seed and the next."""
    previous: dict[str, int] = {}
    for seed in sorted(digests):
        if (before := previous.get(digests[seed])) is not None:
            yield before, seed
        previous[digests[seed]] = seed


def _described(path: Path) -> str:
    """Return the path, and what it is unless it is a regular file."""
    kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "" if path.is_file() else "special file"
    return f"{path} (a {kind})" if kind else str(path)


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"{', '.join(names[:MAX_LISTED])}{more}"
