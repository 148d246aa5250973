# SPDX-License-Identifier: Apache-2.0
"""Features of images in one pass, from files or straight from a sampler, by one process or several under torchrun."""

from __future__ import annotations

import hashlib
import json
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
from scoresde_fast.errors import unknown
from scoresde_fast.evaluation.extractors import Extractor
from scoresde_fast.evaluation.frechet import FeatureMoments
from scoresde_fast.generate.pixels import ROUNDINGS, to_uint8
from scoresde_fast.generate.seeds import Shard
from scoresde_fast.sampler import Sampler

T = TypeVar("T")
SHOWN = 64
"""Number of images kept for display, the first ones."""
TIMEOUT = timedelta(hours=24)
"""Time that a process waits for the others; the first one may compute a reference meanwhile."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run: this one is number ``rank`` of ``count``."""

    rank: int = 0
    count: int = 1

    def gather(self, part: T) -> list[T] | None:
        """Return the parts of all processes, by rank, on process 0; None on the others."""
        if self.count == 1:
            return [part]
        parts: list[T] | None = [part] * self.count if self.rank == 0 else None
        torch.distributed.gather_object(part, parts)
        return parts


@contextmanager
def torchrun_processes() -> Iterator[Processes]:
    """Connect the processes that torchrun started by gloo while the block runs; without torchrun there is one.

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
    """An `ImageSource` that samples each batch when it is read; the pixels are those of ``scoresde-fast sample``.

    Args:
        sampler: of the images.
        shape: (C, H, W) of each.
        seeds: one for each image, in this order.
        rounding: "floor" of 255 x, or "round" to the nearest.

    Raises:
        ValueError: the rounding is unknown.
    """

    def __init__(
        self, sampler: Sampler, shape: tuple[int, int, int], seeds: Sequence[int], rounding: str = "floor"
    ) -> None:
        if rounding not in ROUNDINGS:
            raise ValueError(unknown("rounding", rounding, ROUNDINGS))
        self.sampler, self.shape, self.seeds, self.rounding = sampler, shape, seeds, rounding

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.seeds)

    def batches(self, size: int) -> Iterator[ImageBatch]:
        """Yield all images, ``size`` at a time."""
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
        halves: moments of the extractor's layer over two random halves, which are always the same.
        features: (count, D) float32 of each kept layer, in the order of the images.
        first: (at most 64, C, H, W) uint8, the first images.
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
    """The results of one process; tensors by the number of their first image."""

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

    Every process takes whole batches, so that the result does not depend on their number.

    Args:
        keep: layers whose features are kept.
        batch_size: images at once.
        progress: show a bar; None shows it on a terminal.

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
                size = features.shape[1], features.device
                part.halves = FeatureMoments.zero(*size), FeatureMoments.zero(*size)
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
    return None if parts is None else _joined(parts, source.count)


def _own_batches(source: ImageSource, size: int, processes: Processes) -> Iterator[tuple[int, ImageBatch]]:
    """Yield this process's batches, each with the number of its first image."""
    if isinstance(source, SampledImages):
        batches = source.strided(size, processes.rank, processes.count)
    else:
        batches = islice(source.batches(size), processes.rank, None, processes.count)
    for number, batch in enumerate(batches):
        yield (number * processes.count + processes.rank) * size, batch


def _joined(parts: list[_Part], count: int) -> FeatureSet:
    halves = [part.halves for part in parts if part.halves is not None]
    return FeatureSet(
        count,
        reduce(lambda a, b: (a[0] + b[0], a[1] + b[1]), halves),
        {name: torch.cat(_in_order([part.features[name] for part in parts])) for name in parts[0].features},
        torch.cat(_in_order([part.first for part in parts]))[:SHOWN],
    )


def _in_order(numbered: list[dict[int, T]]) -> list[T]:
    merged = {number: value for part in numbered for number, value in part.items()}
    return [merged[number] for number in sorted(merged)]


def content_sha256(source: ImageSource, batch_size: int = 256) -> str:
    """Return the SHA-256 of all pixels in order, independent of the names and the location of the images."""
    digest = hashlib.sha256(json.dumps([source.count, *source.shape]).encode())
    for batch in source.batches(batch_size):
        digest.update(batch.images.contiguous().numpy().tobytes())
    return digest.hexdigest()
