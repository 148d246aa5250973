# SPDX-License-Identifier: Apache-2.0
"""A run: the seeds of a set that are this process's and missing, from the sampler to the disk."""

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

from scoresde_fast.errors import unknown
from scoresde_fast.files import make_folder, replacing
from scoresde_fast.generate.grid import MOST as GRID_MOST
from scoresde_fast.generate.grid import compose
from scoresde_fast.generate.locks import Claim, gate
from scoresde_fast.generate.manifest import DamagedManifestError, Json, Manifest, environment
from scoresde_fast.generate.pipeline import Pipeline
from scoresde_fast.generate.pixels import ROUNDINGS, encode_png
from scoresde_fast.generate.progress import Progress, Report
from scoresde_fast.generate.seed_set import EMPTY, SeedSet
from scoresde_fast.generate.shards import Shard
from scoresde_fast.generate.stores import Damage, Store, open_store

SAME_LEVELS = 1
"""Levels of 255 by which an image may differ that another batch, or another machine, made of the same seed."""


class ImageSource(Protocol):
    """What :func:`generate` needs; ``scoresde_fast.Sampler`` is one."""

    @property
    def nfe(self) -> int | None:
        """Network evaluations an image."""

    @property
    def device(self) -> torch.device: ...

    @property
    def batch_dependent(self) -> bool:
        """Whether an image depends on the others of its batch, as with ``langevin_norm="batch"``."""

    def describe(self) -> dict[str, Any]:
        """Everything that decides the pixels, for JSON."""

    def stream(
        self, seeds: Sequence[int], batch_size: int, on_step: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """(seeds, images (B, C, H, W) in [0, 1]) batch by batch; ``on_step(done, of)`` counts a batch's evaluations."""


def generate(
    sampler: ImageSource,
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
    """Write one image for each seed to ``out``, with ``samples.json`` and a grid; what is finished already stays.

    A set may be made by any number of processes, one after another or at once, each with a share of its seeds; which
    one makes an image, and what interrupts it, does not show in its bytes where an image does not depend on its batch
    (``strict``, else up to the last bit).  Where it does, the seeds are split into fixed batches, and a batch with a
    missing image is computed again as a whole.  More seeds may be added to a set later.

    Args:
        sampler: makes float images (B, C, H, W) in [0, 1].
        seeds: integers >= 0.
        out: a folder of PNG, or a name that ends in ``.npz``, ``.zip``, ``.tar`` or ``.npy``.
        batch_size: images computed together.
        rounding: ``"floor"`` of 255 x as in the original programs, or ``"round"`` to the nearest.
        shard: this process's share; None: that of RANK and WORLD_SIZE, as torchrun sets them, else all.
        grid: whether the process that completes the set writes the picture of its first images, ``grid.png`` or
            ``SET.grid.png``.
        progress: whether to show a bar where stderr is a terminal, and write a line a minute where it is none.
        stop: asked after every batch; once it says so, the run ends as if there were no more to do.

    Raises:
        ValueError: bad seeds, batch size or rounding; ``out`` has an unknown suffix, holds images of another
            configuration, or images without a description.
        SetInUseError: another process is writing this share, or other shares that overlap with it.
        OSError: a file cannot be written; finished ones are kept.
        FloatingPointError: the network returned NaN; the images of earlier batches are kept.
    """
    wanted, store = SeedSet.of(seeds), open_store(Path(out))
    if not len(wanted):
        raise ValueError("no seeds: name at least one, for instance 0-63")
    if batch_size < 1:
        raise ValueError(f"batch size {batch_size} makes no images; it is at least 1")
    if rounding not in ROUNDINGS:
        raise ValueError(unknown("rounding", rounding, ROUNDINGS))
    shard = Shard.of_process() if shard is None else shard
    configuration = {
        "format": store.format,
        "rounding": rounding if store.rounds else None,
        "nfe": sampler.nfe,
        "sampler": sampler.describe(),
    }
    if sampler.batch_dependent:
        configuration["batch_size"] = batch_size
    task = _Task(store, sampler, wanted, batch_size, rounding, shard, configuration)
    return task.run(grid=grid, progress=progress, stop=stop)


@dataclass(frozen=True)
class _Task:
    """What is asked of this process."""

    store: Store
    sampler: ImageSource
    wanted: SeedSet
    batch_size: int
    rounding: str
    shard: Shard
    configuration: Json

    def run(self, *, grid: bool, progress: bool, stop: Callable[[], bool]) -> Report:
        store = self.store
        manifest = self._manifest()
        mine = self._mine(manifest)
        # Looked at again: another process may have begun the set meanwhile, its description before its first image.
        if not manifest.seeds and len(store.present()) and not self._manifest().seeds:
            raise ValueError(f"{store.out} has images but no {store.manifest.name}; choose another --out or move them")
        whole = len(manifest.extended(self.wanted, {}).all_seeds())
        if store.most is not None and whole > store.most:
            raise ValueError(
                f"{store.out} would have {whole} images; a .{store.format} takes at most {store.most}: choose .tar, or "
                "a folder"
            )
        settled = store.tidy() and (store.grid.exists() or not grid)
        if settled and not len(manifest.extended(self.wanted, {}).missing()) and not len(mine - store.present()):
            return Report(0, len(mine), self.sampler.nfe, 0.0, 0.0, 0, False, store.grid if grid else store.out)
        make_folder(store.manifest.parent)
        claim = Claim(store.work, self.shard, store.sweep)
        try:
            manifest = self._begun()
            missing = self._mine(manifest) - self._settled(manifest)
            made, seconds, waited, stopped = self._make(missing, len(mine), progress, stop)
            complete = self._finish(grid)
        finally:
            claim.release()
        left = len(Manifest.read(store.manifest).missing())
        look_at = store.grid if grid and complete else store.out
        return Report(made, len(mine - missing), self.sampler.nfe, seconds, waited, left, stopped, look_at)

    def _manifest(self) -> Manifest:
        """What is known of the set, without writing.  A damaged description is made anew from the images."""
        try:
            return Manifest.begin(self.store.manifest, self.configuration)
        except DamagedManifestError as error:
            present = self.store.present()
            if not len(present):
                raise
            self._require_own(present, error)
            warnings.warn(f"{self.store.manifest} was damaged; it is made again from the images", stacklevel=2)
            made_in = environment(self.sampler.device, self.batch_size)
            manifest = replace(Manifest.new(self.configuration), done=EMPTY).extended(present | self.wanted, made_in)
            with gate(self.store.work):
                manifest.write(self.store.manifest)
            return manifest

    def _require_own(self, present: SeedSet, error: Exception) -> None:
        """Whether this sampler makes what is there can be tried: the description that said so is lost."""
        first = SeedSet.of(present.take(self.batch_size))
        there = {seed: pixels for seed, pixels in self.store.look(first) if not isinstance(pixels, Damage)}
        for seeds, images in self.sampler.stream(list(there), batch_size=self.batch_size):
            for seed, image in zip(seeds, images, strict=True):
                again = self.store.levels(image, self.rounding)
                same = again.shape == there[seed].shape
                if not same or np.abs(again.astype(int) - there[seed].astype(int)).max() > SAME_LEVELS:
                    raise ValueError(
                        f"{error}; it cannot be made again either, since seed {seed} gives another image than the one "
                        "there: ask with the options that the set was begun with"
                    ) from error

    def _mine(self, manifest: Manifest) -> SeedSet:
        """This process's share of what is asked for; of images that depend on their batch, in whole batches."""
        if not self.sampler.batch_dependent:
            return self.shard.of(self.wanted)
        batches = manifest.extended(self.wanted, {}).batches(self.batch_size)
        mine = (batch for place, batch in enumerate(batches) if place % self.shard.count == self.shard.index)
        return SeedSet.of(seed for batch in mine for seed in batch) & self.wanted

    def _begun(self) -> Manifest:
        """The description on the disk, with what this run asks for: first of all, no image without it."""
        store = self.store
        store.prepare()
        with gate(store.work):
            manifest = Manifest.begin(store.manifest, self.configuration)
            begun = manifest.extended(self.wanted, environment(self.sampler.device, self.batch_size))
            begun = replace(begun, done=begun.done or EMPTY)
            if begun != manifest:
                begun.write(store.manifest)
        return begun

    def _settled(self, manifest: Manifest) -> SeedSet:
        """The seeds whose images are there, after what a killed run wrote without counting it was looked at."""
        done, present = manifest.done or EMPTY, self.store.present()
        mine = self._mine(manifest)
        uncounted = (present - done) & mine
        lost = (done - present) & mine
        damaged = self.store.damaged(uncounted)
        if len(damaged):
            self.store.remove(damaged)
        if len(uncounted) or len(lost):
            self.store.sync()
            self._count(uncounted - damaged, lost)
        return ((done | uncounted) - lost) - damaged

    def _count(self, done: SeedSet, lost: SeedSet = EMPTY) -> None:
        with gate(self.store.work):
            manifest = Manifest.read(self.store.manifest)
            replace(manifest, done=((manifest.done or EMPTY) - lost) | done).write(self.store.manifest)

    def _make(
        self, missing: SeedSet, total: int, progress: bool, stop: Callable[[], bool]
    ) -> tuple[int, float, float, bool]:
        """(images made, seconds, seconds waited for the disk, whether the run was asked to stop)."""
        made, stopped, start = 0, False, perf_counter()
        nfe, found = self.sampler.nfe, total - len(missing)
        with (
            Pipeline(self.store, self.rounding, lambda seeds: self._count(SeedSet.of(seeds))) as pipeline,
            Progress(total, found, nfe, self.shard, pipeline, progress) as telling,
        ):
            for batch in self._batches(missing):
                if stopped := stop():
                    break
                on_step = telling.batch(len(batch))
                for seeds, images in self.sampler.stream(batch, batch_size=self.batch_size, on_step=on_step):
                    if self.sampler.batch_dependent:  # the batch has images that are there already
                        keep = [place for place, seed in enumerate(seeds) if seed in missing]
                        seeds, images = [seeds[place] for place in keep], images[keep]
                    pipeline.put(seeds, images)
                    made += len(seeds)
                    telling.made(len(seeds))
        return made, perf_counter() - start, pipeline.waited, stopped

    def _batches(self, missing: SeedSet) -> Iterator[list[int]]:
        if not self.sampler.batch_dependent:
            yield from missing.batches(self.batch_size)
            return
        for batch in Manifest.read(self.store.manifest).batches(self.batch_size):
            if any(seed in missing for seed in batch):
                yield batch

    def _finish(self, grid: bool) -> bool:
        """Whether the set is complete; whoever makes it so puts it together."""
        store = self.store
        with gate(store.work):
            manifest = Manifest.read(store.manifest)
            if len(manifest.missing()):
                return False
            if grid:
                first = SeedSet.of(manifest.all_seeds().take(GRID_MOST))
                png = encode_png(compose([pixels for _, pixels in store.read(first)]))
                if not store.grid.exists() or store.grid.read_bytes() != png:
                    with replacing(store.grid) as file:
                        file.write(png)
            store.pack(manifest.all_seeds())
        return True
