# SPDX-License-Identifier: Apache-2.0
"""One pass that extracts the features of images, from files or a sampler, in one process or several under torchrun."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from tqdm import tqdm

from scoresde_fast.data.images import ImageBatch
from scoresde_fast.data.sources import ImageSource
from scoresde_fast.errors import unknown_message
from scoresde_fast.evaluation.extractors import Extractor
from scoresde_fast.evaluation.frechet import FeatureMoments
from scoresde_fast.generate.pixels import ROUNDINGS, to_uint8
from scoresde_fast.generate.seeds import Shard
from scoresde_fast.sampler import Sampler

T = TypeVar("T")
SHOWN = 64
"""Number of first images kept for display."""
TIMEOUT = timedelta(hours=24)
"""Time for which a process waits for the others; the first process may have to compute a reference."""


@dataclass(frozen=True)
class Processes:
    """This process's rank, and the number of processes of a run."""

    rank: int = 0
    count: int = 1

    def gather(self, part: T) -> list[T] | None:
        """Return the parts of all processes, by rank; None on processes other than the first."""
        if self.count == 1:
            return [part]
        parts: list[T] | None = [part] * self.count if self.rank == 0 else None
        torch.distributed.gather_object(part, parts)
        return parts


@contextmanager
def torchrun_processes() -> Iterator[Processes]:
    """Yield the processes that torchrun started, connected by gloo within the block; without torchrun, this process.

    Raises:
        ValueError: as `Shard.of_process`.
    """
    shard = Shard.of_process()
    if shard.count == 1:
        yield Processes()
        return
    torch.distributed.init_process_group("gloo", timeout=TIMEOUT)
    try:
        yield Processes(shard.index, shard.count)
    finally:
        torch.distributed.destroy_process_group()


class SampledImages:
    """An `ImageSource` that samples each batch when it is read; the pixels equal those of ``scoresde-fast sample``.

    Args:
        sampler: sampler of the images.
        shape: (C, H, W) of an image.
        seeds: seeds of the images, in order.
        rounding: "floor" of 255 x, or "round" to the nearest.

    Raises:
        ValueError: the rounding is unknown.
    """

    def __init__(
        self, sampler: Sampler, shape: tuple[int, int, int], seeds: Sequence[int], rounding: str = "floor"
    ) -> None:
        if rounding not in ROUNDINGS:
            raise ValueError(unknown_message("rounding", rounding, ROUNDINGS))
        self.sampler, self.shape, self.seeds, self.rounding = sampler, shape, seeds, rounding

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.seeds)

    def batches(self, size: int) -> Iterator[ImageBatch]:
        """Yield all images in batches of ``size``."""
        return self.strided(size, 0, 1)

    def strided(self, size: int, first: int, step: int) -> Iterator[ImageBatch]:
        """Yield the batches ``first``, ``first + step``, ... of `batches`, without sampling the others."""
        for start in range(first * size, len(self.seeds), step * size):
            for seeds, images in self.sampler.stream(self.seeds[start : start + size], size):
                pixels = to_uint8(images, self.rounding).permute(0, 3, 1, 2).contiguous().cpu()
                yield ImageBatch(pixels, [str(seed) for seed in seeds], None)


@dataclass
class FeatureSet:
    """The features of a set of images.

    Attributes:
        count: number of images.
        halves: moments of the features over two random halves of the images, which are always the same.
        features: features (count, D) float32 of each kept layer, in the order of the images.
        first: the first images, (at most 64, C, H, W) uint8.
    """

    count: int
    halves: tuple[FeatureMoments, FeatureMoments]
    features: dict[str, Tensor]
    first: Tensor

    @property
    def moments(self) -> FeatureMoments:
        """Moments over all images."""
        return self.halves[0] + self.halves[1]


@dataclass
class _Part:
    """The results of one process; tensors are keyed by the index of their first image."""

    halves: tuple[FeatureMoments, FeatureMoments] | None
    features: dict[str, dict[int, Tensor]]
    first: dict[int, Tensor]


def collect(
    source: ImageSource,
    extractor: Extractor,
    *,
    keep: Collection[str] = (),
    batch_size: int = 64,
    processes: Processes | None = None,
    progress: bool | None = None,
) -> FeatureSet | None:
    """Return the features of all images; None on processes other than the first.

    The batches and the result are the same for any number of processes.

    Args:
        keep: layers whose features are kept.
        batch_size: number of images in a batch.
        progress: show a progress bar; None shows it on a terminal, in the first process.

    Raises:
        ValueError: an image does not fit the extractor.
    """
    processes = processes or Processes()
    part = _Part(None, {name: {} for name in keep}, {})
    half_of = torch.from_numpy(np.random.default_rng(0).permutation(source.count) % 2)
    hide = None if progress is None and processes.rank == 0 else not progress
    with tqdm(total=source.count, unit="image", disable=hide, dynamic_ncols=True) as bar:
        for start, batch in _own_batches(source, batch_size, processes):
            layers = extractor(batch.images)
            features = layers[extractor.layer]
            if part.halves is None:
                dimensions, device = features.shape[1], features.device
                part.halves = FeatureMoments.zero(dimensions, device), FeatureMoments.zero(dimensions, device)
            for half in (0, 1):
                part.halves[half].add(features[half_of[start : start + len(features)] == half])
            for name, kept in part.features.items():
                kept[start] = layers[name].cpu()
            if start < SHOWN:
                part.first[start] = batch.images
            bar.update(len(batch.images) * processes.count)
    if part.halves is not None:
        part.halves = part.halves[0].cpu(), part.halves[1].cpu()
    parts = processes.gather(part)
    return None if parts is None else _join(parts, source.count)


def _own_batches(source: ImageSource, size: int, processes: Processes) -> Iterator[tuple[int, ImageBatch]]:
    """Yield this process's batches, each with the index of its first image."""
    if isinstance(source, SampledImages):
        batches = source.strided(size, processes.rank, processes.count)
    else:
        batches = islice(source.batches(size), processes.rank, None, processes.count)
    for index, batch in enumerate(batches):
        yield (index * processes.count + processes.rank) * size, batch


def _join(parts: list[_Part], count: int) -> FeatureSet:
    halves = [part.halves for part in parts if part.halves is not None]
    return FeatureSet(
        count,
        reduce(lambda a, b: (a[0] + b[0], a[1] + b[1]), halves),
        {name: torch.cat(_in_order([part.features[name] for part in parts])) for name in parts[0].features},
        torch.cat(_in_order([part.first for part in parts]))[:SHOWN],
    )


def _in_order(parts: list[dict[int, T]]) -> list[T]:
    """Return the values of all dictionaries, sorted by key."""
    merged = {start: value for part in parts for start, value in part.items()}
    return [merged[start] for start in sorted(merged)]
