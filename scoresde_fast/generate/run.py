# SPDX-License-Identifier: Apache-2.0
"""`generate`: computes and writes the missing images of a set, or of one shard of it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.data.codecs import Pixels, encode_png
from scoresde_fast.errors import unknown_message
from scoresde_fast.files import make_folder, replacing, user_path
from scoresde_fast.generate.digests import Digests, digest, file_digest
from scoresde_fast.generate.manifest import (
    DamagedManifestError,
    Json,
    Manifest,
    ManifestLock,
    ShardLock,
    environment,
    record_done,
    require_no_images,
)
from scoresde_fast.generate.pipeline import Pipeline, Progress, Report
from scoresde_fast.generate.pixels import GRID_IMAGES, ROUNDINGS, compose, to_pixels
from scoresde_fast.generate.seeds import EMPTY, SeedSet, Shard
from scoresde_fast.generate.stores import Store, Stored, damaged_image, open_store

MAX_DIFFERENCE = 1
"""Largest difference between pixel values (0 to 255) of one seed at different batch sizes or on different machines."""


class ImageSampler(Protocol):
    """The interface that `generate` needs; ``scoresde_fast.Sampler`` has it."""

    @property
    def nfe(self) -> int | None:
        """Network evaluations per image, if known in advance."""

    @property
    def device(self) -> torch.device: ...

    @property
    def implementation(self) -> str:
        """How the network runs, for the report."""

    @property
    def batch_dependent(self) -> bool:
        """Whether an image depends on the others of its batch, as with ``langevin_norm="batch"``."""

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""

    def stream(
        self, seeds: Sequence[int], batch_size: int, on_step: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield (seeds, images (B, C, H, W) in [0, 1]) of each batch; ``on_step(done, total)`` counts evaluations."""


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

    Any number of processes may write a set, each a shard of its seeds, simultaneously or not.  Later runs may add
    seeds.  With ``strict``, the bytes of an image do not depend on the process or on interruptions; without, the last
    bit of the sampler's values may.  If images depend on their batch, the seeds are split into fixed batches, and the
    whole batch of a missing image is computed again.

    Args:
        sampler: generates float images (B, C, H, W) in [0, 1].
        seeds: integers >= 0.
        out: a folder for PNGs, or a name that ends in ``.npz``, ``.zip``, ``.tar`` or ``.npy``.
        batch_size: images computed together.
        rounding: ``"floor"`` of 255 x as in the official code, or ``"round"`` to the nearest.
        shard: the shard of this process; None: `Shard.of_process`, the shard under torchrun or else the whole set.
        grid: whether the process that completes the set writes a picture of the first images, ``OUT.grid.png``.
        progress: whether to show a bar if stderr is a terminal, and otherwise print a line a minute.
        stop: polled before each batch; True ends the run early.

    Raises:
        ValueError: the seeds, batch size or rounding are invalid; or ``out`` has an unknown suffix, or contains images
            of another configuration or without a manifest.
        SetInUseError: another process is writing this shard, or other shards that overlap with it.
        OSError: a file cannot be written; finished ones are kept.
        FloatingPointError: the network returned NaN; the images of earlier batches are kept.
    """
    requested, store = SeedSet.of(seeds), open_store(user_path(out))
    if not len(requested):
        raise ValueError("no seeds: give at least one, for instance 0-63")
    configuration = set_configuration(sampler, store, batch_size=batch_size, rounding=rounding)
    shard = Shard.of_process() if shard is None else shard
    writer = _SetWriter(store, sampler, requested, batch_size, rounding, shard, configuration)
    return writer.run(grid=grid, progress=progress, stop=stop)


def set_configuration(sampler: ImageSampler, store: Store, *, batch_size: int, rounding: str) -> Json:
    """Return the settings that determine the output, for the manifest.

    Raises:
        ValueError: the batch size is below 1, or the rounding is unknown.
    """
    if rounding not in ROUNDINGS:
        raise ValueError(unknown_message("rounding", rounding, ROUNDINGS))
    return {
        "format": store.format,
        "rounding": rounding if store.rounds else None,
        **sampler_configuration(sampler, batch_size),
    }


def sampler_configuration(sampler: ImageSampler, batch_size: int) -> Json:
    """Return the sampler's part of a configuration; raise ValueError if ``batch_size`` is below 1."""
    if batch_size < 1:
        raise ValueError(f"batch size {batch_size} is too small; it must be at least 1")
    configuration = {"nfe": sampler.nfe, "sampler": sampler.describe()}
    return configuration | ({"batch_size": batch_size} if sampler.batch_dependent else {})


def grid_of(store: Store, seeds: SeedSet) -> Pixels:
    """Return the grid of the finished set of ``seeds``; raise ValueError if one of its images is damaged."""
    return compose([pixels for _, pixels in store.read(SeedSet.of(seeds.take(GRID_IMAGES)))])


@dataclass(frozen=True)
class _SetWriter:
    """The steps of `generate`, in the order in which `run` takes them."""

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
        # Read it again: another process may have begun the set meanwhile; it writes the manifest before any image.
        if not manifest.seeds and len(store.present()) and not self._read_manifest().seeds:
            raise ValueError(f"{store.out} has images but no {store.manifest.name}; choose another --out or move them")
        if not manifest.seeds:
            require_no_images(store.out, store.manifest)
        manifest = manifest.extended(self.requested, {})
        mine, total = self._own_seeds(manifest), len(manifest.all_seeds())
        if store.max_images is not None and total > store.max_images:
            raise ValueError(
                f"{store.out} would have {total} images, but a .{store.format} has at most {store.max_images}: use "
                ".tar or a folder"
            )
        finished = not store.work.exists() and store.digests.is_file() and (store.grid.exists() or not grid)
        if finished and not len(manifest.missing()) and not len(mine - store.present()):
            return Report(made=0, found=len(mine), nfe=self.sampler.nfe, look_at=store.grid if grid else store.out)
        make_folder(store.manifest.parent)
        with ShardLock(store.work, self.shard, store.remove_leftovers):
            manifest = self._extend_manifest()
            mine = self._own_seeds(manifest)
            missing = mine - self._check_done(manifest, mine)
            report = self._compute(manifest, missing, found=len(mine - missing), progress=progress, stop=stop)
            complete = self._finish(grid)
        return replace(
            report,
            look_at=store.grid if grid and complete else store.out,
            missing=len(Manifest.read(store.manifest).missing()),
        )

    def _read_manifest(self) -> Manifest:
        """Return the manifest, or a new one; rebuild a damaged one from the images."""
        try:
            return Manifest.begin(self.store.manifest, self.configuration)
        except DamagedManifestError as error:
            present = self.store.present()
            if not len(present):
                raise
            self._check_sampler(present, error)
            warnings.warn(f"{self.store.manifest} was corrupt; it is rebuilt from the images", stacklevel=2)
            current = environment(self.sampler.device, self.batch_size)
            manifest = replace(Manifest.new(self.configuration), done=EMPTY).extended(present | self.requested, current)
            with ManifestLock(self.store.work):
                manifest.write(self.store.manifest)
            return manifest

    def _check_sampler(self, present: SeedSet, error: Exception) -> None:
        """Raise ValueError unless this sampler reproduces the first images of the set, whose manifest is damaged."""
        first = SeedSet.of(present.take(self.batch_size))
        saved = {seed: pixels for seed, pixels in self.store.try_read(first) if not isinstance(pixels, Exception)}
        rounding = self.rounding if self.store.rounds else "round"
        for seeds, images in self.sampler.stream(list(saved), batch_size=self.batch_size):
            for seed, pixels in zip(seeds, to_pixels(images, rounding), strict=True):
                same_shape = pixels.shape == saved[seed].shape
                if not same_shape or np.abs(pixels.astype(int) - saved[seed].astype(int)).max() > MAX_DIFFERENCE:
                    raise ValueError(
                        f"{error}; it cannot be rebuilt either, since these options give another image for seed {seed} "
                        "than the saved one: use the original options of the set"
                    ) from error

    def _own_seeds(self, manifest: Manifest) -> SeedSet:
        """Return the requested seeds of this shard; it has whole batches if images depend on their batch."""
        if not self.sampler.batch_dependent:
            return self.shard.of(self.requested)
        mine = islice(manifest.batches(self.batch_size), self.shard.index, None, self.shard.count)
        return SeedSet.of(chain.from_iterable(mine)) & self.requested

    def _extend_manifest(self) -> Manifest:
        """Add the requested seeds to the manifest, before the first image is written, and return it."""
        with ManifestLock(self.store.work):
            manifest = Manifest.begin(self.store.manifest, self.configuration)
            extended = manifest.extended(self.requested, environment(self.sampler.device, self.batch_size))
            extended = replace(extended, done=extended.done or EMPTY)
            if extended != manifest:
                extended.write(self.store.manifest)
                self.store.sync()  # else a power loss may leave images without a manifest
        return extended

    def _check_done(self, manifest: Manifest, mine: SeedSet) -> SeedSet:
        """Check and record images of ``mine`` that a killed run left; return all seeds with an intact image."""
        store = self.store
        if manifest.digests is not None and not store.digests.is_file():
            self._restore_digests(manifest)
        done = (manifest.done or EMPTY) & Digests.read(store).seeds()
        present = store.present()
        unrecorded = (present - done) & mine
        lost = (done - present) & mine
        digests: dict[int, str] = {}
        for seed, image in store.try_load(unrecorded):
            if not isinstance(image, Exception) and not isinstance(store.try_decode(image), Exception):
                digests[seed] = digest(image)
        intact = SeedSet.of(digests)
        if len(damaged := unrecorded - intact):
            store.remove(damaged)
        if len(unrecorded) or len(lost):
            store.sync()
            record_done(store, digests, lost=lost)
        return (done | intact) - lost

    def _restore_digests(self, manifest: Manifest) -> None:
        """Write the lost digests of a finished set again; remove its images if they are not those that were recorded.

        The manifest has the digest of all digests: if it does not match, nobody can tell which image has changed.
        """
        store, seeds = self.store, manifest.all_seeds()
        images = {seed: digest(image) for seed, image in store.try_load(seeds) if not isinstance(image, Exception)}
        with ManifestLock(store.work):
            restored = Digests(images).finished(seeds, store.archives())
            if hashlib.sha256(restored.content(store)).hexdigest() == manifest.digests:
                restored.write(store)
                return
        warnings.warn(
            f"{store.digests} is missing, and the images of {store.out} have changed since; all are sampled again",
            stacklevel=2,
        )
        store.remove(seeds)

    def _compute(
        self, manifest: Manifest, missing: SeedSet, *, found: int, progress: bool, stop: Callable[[], bool]
    ) -> Report:
        """Compute and write the images of ``missing``; ``found`` other images of this shard exist already."""
        nfe, made, stopped, start = self.sampler.nfe, 0, False, perf_counter()
        with (
            Pipeline(self.store, self.rounding, partial(record_done, self.store)) as pipeline,
            Progress(found + len(missing), found, nfe, self.shard, pipeline.stats, enabled=progress) as display,
        ):
            for batch in self._batches(manifest, missing):
                if stopped := stop():
                    break
                on_step = display.on_step(len(batch))
                for seeds, images in self.sampler.stream(batch, batch_size=self.batch_size, on_step=on_step):
                    if self.sampler.batch_dependent:  # some images of the batch may exist already
                        rows = [row for row, seed in enumerate(seeds) if seed in missing]
                        seeds, images = [seeds[row] for row in rows], images[rows]
                    pipeline.put(seeds, images)
                    made += len(seeds)
                    display.add(len(seeds))
        seconds, waited = perf_counter() - start, pipeline.stats.waited
        return Report(
            made, found, nfe, self.store.out, seconds, waited, stopped=stopped,
            implementation=self.sampler.implementation,
        )  # fmt: skip

    def _batches(self, manifest: Manifest, missing: SeedSet) -> Iterator[list[int]]:
        if not self.sampler.batch_dependent:
            return missing.batches(self.batch_size)
        batches = manifest.batches(self.batch_size)
        return (batch for batch in batches if any(seed in missing for seed in batch))

    def _finish(self, grid: bool) -> bool:
        """Write the grid, the archive and their digests if the set is complete; return whether it is."""
        store = self.store
        with ManifestLock(store.work):
            manifest = Manifest.read(store.manifest)
            if len(manifest.missing()):
                return False
            seeds = manifest.all_seeds()
            if grid:
                png = encode_png(grid_of(store, seeds))
                if not store.grid.exists() or store.grid.read_bytes() != png:
                    with replacing(store.grid) as file:
                        file.write(png)
            digests = Digests.read(store)

            def check(seed: int, image: Stored) -> None:
                if digests.images.get(seed) != digest(image):
                    raise damaged_image(seed, store.out, "it does not match its digest")

            if manifest.digests is not None:  # the archives may change: until they are known again, none has a digest
                manifest = replace(manifest, digests=None)
                manifest.write(store.manifest)
            if digests.files:
                Digests(digests.images).write(store)
            store.pack(seeds, check)
            digests.finished(seeds, store.archives()).write(store)
            replace(manifest, digests=file_digest(store.digests)).write(store.manifest)
            # Until everything is on the disk, the parts and the folder `work` tell the next run to finish the set.
            store.sync()
            store.clean()
        return True
