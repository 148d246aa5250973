# SPDX-License-Identifier: Apache-2.0
"""One pass over images: the moments of their features, and the features themselves where they are needed again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from scoresde_fast.data.items import ImageBatch
from scoresde_fast.data.sources import ImageSource
from scoresde_fast.evaluation.extractors import Extractor
from scoresde_fast.evaluation.moments import Moments
from scoresde_fast.evaluation.processes import Processes
from scoresde_fast.evaluation.sampled import SampledImages

T = TypeVar("T")
SHOWN = 64
"""How many of the first images are kept to be looked at."""


@dataclass
class FeatureSet:
    """What is known of the features of a set of images.

    Attributes:
        count: images.
        halves: moments of the extractor's layer, of two halves drawn at random, always the same ones.
        features: (count, D) float32 of each layer that was to be kept, in the order of the images.
        first: (at most 64, C, H, W) uint8, the first images.
        names: of the first images.
    """

    count: int
    halves: tuple[Moments, Moments]
    features: dict[str, Tensor]
    first: Tensor
    names: list[str]

    @property
    def moments(self) -> Moments:
        """Of all images."""
        return self.halves[0] + self.halves[1]


@dataclass
class _Part:
    """What one process has found; pieces by the place of their first image."""

    halves: tuple[Moments, Moments] | None
    features: dict[str, dict[int, Tensor]]
    first: dict[int, ImageBatch]


def collect(
    source: ImageSource,
    extractor: Extractor,
    *,
    keep: Collection[str] = (),
    batch_size: int = 64,
    processes: Processes | None = None,
    progress: bool | None = None,
) -> FeatureSet | None:
    """The features of all images; on a process other than the first of several, None.

    Every process takes whole batches, so that what is found does not depend on how many there are.

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
    show = None if progress is None and processes.rank == 0 else not progress
    with tqdm(total=source.count, unit="image", disable=show, dynamic_ncols=True) as bar:
        for start, batch in _shared(source, batch_size, processes):
            found = extractor(batch.images)
            features = found[extractor.layer]
            if part.halves is None:
                sizes = features.shape[1], features.device
                part.halves = Moments.zero(*sizes), Moments.zero(*sizes)
            for half in (0, 1):
                part.halves[half].add(features[half_of[start : start + len(features)] == half])
            for name, pieces in part.features.items():
                pieces[start] = found[name].cpu()
            if start < SHOWN:
                part.first[start] = batch
            bar.update(len(batch.images) * processes.count)
    if part.halves is not None:
        part.halves = part.halves[0].cpu(), part.halves[1].cpu()
    parts = processes.gather(part)
    return None if parts is None else _joined(parts, source.count)


def _shared(source: ImageSource, size: int, processes: Processes) -> Iterator[tuple[int, ImageBatch]]:
    """Every so-many-th batch, and the place of its first image."""
    if isinstance(source, SampledImages):
        batches = source.every(size, processes.rank, processes.count)
    else:
        batches = islice(source.batches(size), processes.rank, None, processes.count)
    for number, batch in enumerate(batches):
        yield (number * processes.count + processes.rank) * size, batch


def _joined(parts: list[_Part], count: int) -> FeatureSet:
    halves = [part.halves for part in parts if part.halves is not None]
    batches = _in_order([part.first for part in parts])
    return FeatureSet(
        count,
        reduce(lambda a, b: (a[0] + b[0], a[1] + b[1]), halves),
        {name: torch.cat(_in_order([part.features[name] for part in parts])) for name in parts[0].features},
        torch.cat([batch.images for batch in batches])[:SHOWN],
        [name for batch in batches for name in batch.names][:SHOWN],
    )


def _in_order(pieces: list[dict[int, T]]) -> list[T]:
    by_place = {place: piece for found in pieces for place, piece in found.items()}
    return [by_place[place] for place in sorted(by_place)]


def content_sha256(source: ImageSource, batch_size: int = 256) -> str:
    """SHA-256 of all images of a source in their order, whatever they are called and wherever they lie."""
    digest = hashlib.sha256(json.dumps([source.count, *source.shape]).encode())
    for batch in source.batches(batch_size):
        digest.update(batch.images.contiguous().numpy().tobytes())
    return digest.hexdigest()
