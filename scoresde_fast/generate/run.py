# SPDX-License-Identifier: Apache-2.0
"""`generate`: writes the missing images of one process's shard of a set."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.data.codecs import encode_png
from scoresde_fast.errors import unknown_message
from scoresde_fast.files import make_folder, replacing
from scoresde_fast.generate.manifest import (
    DamagedManifestError,
    Json,
    Manifest,
    ManifestLock,
    ShardLock,
    environment,
    record_done,
)
from scoresde_fast.generate.pipeline import Pipeline, Progress, Report
from scoresde_fast.generate.pixels import GRID_IMAGES, ROUNDINGS, compose
from scoresde_fast.generate.seeds import EMPTY, SeedSet, Shard
from scoresde_fast.generate.stores import Damage, Store, open_store

SAME_IMAGE = 1
"""Largest difference, of 255, between images of one seed from two batch sizes or machines."""


class ImageSampler(Protocol):
    """The interface that `generate` needs; ``scoresde_fast.Sampler`` has it."""

    @property
    def nfe(self) -> int | None:
        """Network evaluations per image, where known in advance."""

    @property
    def device(self) -> torch.device: ...

    @property
    def batch_dependent(self) -> bool:
        """Whether an image depends on the others of its batch, as with ``langevin_norm="batch"``."""

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the pixels, for JSON."""

    def stream(
        self, seeds: Sequence[int], batch_size: int, on_step: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield (seeds, images (B, C, H, W) in [0, 1]) of each batch; ``on_step(done, of)`` counts its evaluations."""


def generate(
    sampler: ImageSampler,
    seeds: Iterable[int] | SeedSet,
    out: str | Path,
    *,
    batch_size: int = 64,
    rounding: str = "floor",
    shard: Shard | None = None,
    grid: bool = True,
    progress: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Write one image for each seed to ``out``, with ``samples.json`` and a grid; finished images are kept.

    Any number of processes may make a set, one after another or at once, each a shard of its seeds.  The bytes of an
    image do not tell which process made it, or after which interruptions, as long as the image does not depend on its
    batch (with ``strict``; else up to the last bit).  Where images depend on their batch, the seeds are split into
    fixed batches, and a batch with a missing image is computed again as a whole.  A set may grow by more seeds later.

    Args:
        sampler: makes float images (B, C, H, W) in [0, 1].
        seeds: integers >= 0.
        out: a folder of PNG, or a name that ends in ``.npz``, ``.zip``, ``.tar`` or ``.npy``.
        batch_size: images computed together.
        rounding: ``"floor"`` of 255 x as in the original programs, or ``"round"`` to the nearest.
        shard: this process's shard; None: by RANK and WORLD_SIZE, as torchrun sets them, else the whole set.
        grid: whether the process that completes the set writes a picture of the first images, ``grid.png`` or
            ``SET.grid.png``.
        progress: whether to show a bar where stderr is a terminal, and else write a line a minute.
        stop: polled before each batch; True ends the run early.

    Raises:
        ValueError: bad seeds, batch size or rounding; ``out`` has an unknown suffix, holds images of another
            configuration, or images without a manifest.
        SetInUseError: another process is writing this shard, or other shards that overlap with it.
        OSError: a file cannot be written; finished ones are kept.
        FloatingPointError: the network returned NaN; the images of earlier batches are kept.
    """
    requested, store = SeedSet.of(seeds), open_store(Path(out))
    if not len(requested):
        raise ValueError("no seeds: name at least one, for instance 0-63")
    if batch_size < 1:
        raise ValueError(f"batch size {batch_size} makes no images; it is at least 1")
    if rounding not in ROUNDINGS:
        raise ValueError(unknown_message("rounding", rounding, ROUNDINGS))
    shard = Shard.of_process() if shard is None else shard
    configuration = {
        "format": store.format,
        "rounding": rounding if store.rounds else None,
        "nfe": sampler.nfe,
        "sampler": sampler.describe(),
    }
    if sampler.batch_dependent:
        configuration["batch_size"] = batch_size
    writer = _SetWriter(store, sampler, requested, batch_size, rounding, shard, configuration)
    return writer.run(grid=grid, progress=progress, stop=stop)


@dataclass(frozen=True)
class _SetWriter:
    """A request for images and what it is made of; the steps of `run` follow it in their order."""

    store: Store
    sampler: ImageSampler
    requested: SeedSet
    batch_size: int
    rounding: str
    shard: Shard
    configuration: Json

    def run(self, *, grid: bool, progress: bool, stop: Callable[[], bool]) -> Report:
        store = self.store
        manifest = self._read_manifest()
        mine = self._mine(manifest)
        # Read again: another process may have begun the set meanwhile, with the manifest before the first image.
        if not manifest.seeds and len(store.present()) and not self._read_manifest().seeds:
            raise ValueError(f"{store.out} has images but no {store.manifest.name}; choose another --out or move them")
        total = len(manifest.extended(self.requested, {}).all_seeds())
        if store.most is not None and total > store.most:
            raise ValueError(
                f"{store.out} would have {total} images; a .{store.format} takes at most {store.most}: choose .tar, or "
                "a folder"
            )
        tidy = store.tidy() and (store.grid.exists() or not grid)
        if tidy and not len(manifest.extended(self.requested, {}).missing()) and not len(mine - store.present()):
            return Report(0, len(mine), self.sampler.nfe, 0.0, 0.0, 0, False, store.grid if grid else store.out)
        make_folder(store.manifest.parent)
        with ShardLock(store.work, self.shard, store.sweep):
            manifest = self._begin()
            missing = self._mine(manifest) - self._done(manifest)
            made, seconds, waited, stopped = self._make(missing, len(mine), progress, stop)
            complete = self._finish(grid)
        left = len(Manifest.read(store.manifest).missing())
        look_at = store.grid if grid and complete else store.out
        return Report(made, len(mine - missing), self.sampler.nfe, seconds, waited, left, stopped, look_at)

    def _read_manifest(self) -> Manifest:
        """Return the manifest, or a new one; rebuild a damaged one from the images."""
        try:
            return Manifest.begin(self.store.manifest, self.configuration)
        except DamagedManifestError as error:
            present = self.store.present()
            if not len(present):
                raise
            self._check_sampler(present, error)
            warnings.warn(f"{self.store.manifest} was damaged; it is made again from the images", stacklevel=2)
            made_in = environment(self.sampler.device, self.batch_size)
            manifest = replace(Manifest.new(self.configuration), done=EMPTY).extended(present | self.requested, made_in)
            with ManifestLock(self.store.work):
                manifest.write(self.store.manifest)
            return manifest

    def _check_sampler(self, present: SeedSet, error: Exception) -> None:
        """Raise ValueError unless this sampler makes the first images that are present: the manifest cannot tell."""
        first = SeedSet.of(present.take(self.batch_size))
        there = {seed: pixels for seed, pixels in self.store.look(first) if not isinstance(pixels, Damage)}
        for seeds, images in self.sampler.stream(list(there), batch_size=self.batch_size):
            for seed, image in zip(seeds, images, strict=True):
                again = self.store.to_pixels(image, self.rounding)
                same = again.shape == there[seed].shape
                if not same or np.abs(again.astype(int) - there[seed].astype(int)).max() > SAME_IMAGE:
                    raise ValueError(
                        f"{error}; nor can it be made again, since seed {seed} gives another image than the one there: "
                        "use the options that the set was begun with"
                    ) from error

    def _mine(self, manifest: Manifest) -> SeedSet:
        """Return this process's requested seeds; if images depend on their batch, those of whole batches."""
        if not self.sampler.batch_dependent:
            return self.shard.of(self.requested)
        batches = manifest.extended(self.requested, {}).batches(self.batch_size)
        mine = (batch for place, batch in enumerate(batches) if place % self.shard.count == self.shard.index)
        return SeedSet.of(seed for batch in mine for seed in batch) & self.requested

    def _begin(self) -> Manifest:
        """Write the manifest with the requested seeds, before the first image, and return it."""
        store = self.store
        store.prepare()
        with ManifestLock(store.work):
            manifest = Manifest.begin(store.manifest, self.configuration)
            begun = manifest.extended(self.requested, environment(self.sampler.device, self.batch_size))
            begun = replace(begun, done=begun.done or EMPTY)
            if begun != manifest:
                begun.write(store.manifest)
        return begun

    def _done(self, manifest: Manifest) -> SeedSet:
        """Return the seeds with a good image; check and record what a killed run wrote but did not record."""
        done, present = manifest.done or EMPTY, self.store.present()
        mine = self._mine(manifest)
        unrecorded = (present - done) & mine
        lost = (done - present) & mine
        damaged = self.store.damaged(unrecorded)
        if len(damaged):
            self.store.remove(damaged)
        if len(unrecorded) or len(lost):
            self.store.sync()
            self._record(unrecorded - damaged, lost)
        return ((done | unrecorded) - lost) - damaged

    def _record(self, done: SeedSet, lost: SeedSet = EMPTY) -> None:
        record_done(self.store.manifest, self.store.work, done, lost)

    def _make(
        self, missing: SeedSet, total: int, progress: bool, stop: Callable[[], bool]
    ) -> tuple[int, float, float, bool]:
        """Make images; return their number, the seconds, those waited for the disk, and whether ``stop`` ended it."""
        made, stopped, start = 0, False, perf_counter()
        nfe, found = self.sampler.nfe, total - len(missing)
        with (
            Pipeline(self.store, self.rounding, lambda seeds: self._record(SeedSet.of(seeds))) as pipeline,
            Progress(total, found, nfe, self.shard, pipeline.stats, progress) as bar,
        ):
            for batch in self._batches(missing):
                if stopped := stop():
                    break
                on_step = bar.on_step(len(batch))
                for seeds, images in self.sampler.stream(batch, batch_size=self.batch_size, on_step=on_step):
                    if self.sampler.batch_dependent:  # some images of the batch may exist already
                        keep = [place for place, seed in enumerate(seeds) if seed in missing]
                        seeds, images = [seeds[place] for place in keep], images[keep]
                    pipeline.put(seeds, images)
                    made += len(seeds)
                    bar.add(len(seeds))
        return made, perf_counter() - start, pipeline.stats.waited, stopped

    def _batches(self, missing: SeedSet) -> Iterator[list[int]]:
        if not self.sampler.batch_dependent:
            yield from missing.batches(self.batch_size)
            return
        for batch in Manifest.read(self.store.manifest).batches(self.batch_size):
            if any(seed in missing for seed in batch):
                yield batch

    def _finish(self, grid: bool) -> bool:
        """Return whether the set is complete; if it is, write the grid and assemble the archive."""
        store = self.store
        with ManifestLock(store.work):
            manifest = Manifest.read(store.manifest)
            if len(manifest.missing()):
                return False
            if grid:
                first = SeedSet.of(manifest.all_seeds().take(GRID_IMAGES))
                png = encode_png(compose([pixels for _, pixels in store.read(first)]))
                if not store.grid.exists() or store.grid.read_bytes() != png:
                    with replacing(store.grid) as file:
                        file.write(png)
            store.pack(manifest.all_seeds())
        return True
