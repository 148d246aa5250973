# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbours of samples in the training set, in feature space, to detect copies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde_fast.data.sources import ImageSource


@dataclass(frozen=True)
class Neighbours:
    """The K nearest images of a set for each of S samples, the nearest first.

    Attributes:
        images: (S, K, C, H, W) uint8.
        distances: (S, K), Euclidean, between features.
        typical: median distance of an image of the set to its nearest neighbour in the set.
    """

    images: Tensor
    distances: Tensor
    typical: float


def nearest(features: Tensor, others: Tensor, source: ImageSource, k: int = 4) -> Neighbours:
    """Find the neighbours of samples with ``features`` (S, D) in ``source``, whose features are ``others`` (N, D)."""
    k = min(k, len(others))
    distances, numbers = torch.cdist(features, others).topk(k, largest=False)
    images = _images_at(numbers.unique().tolist(), source)
    rows = [torch.stack([images[number] for number in row]) for row in numbers.tolist()]
    return Neighbours(torch.stack(rows), distances, _typical_distance(others))


def _images_at(numbers: Iterable[int], source: ImageSource, batch_size: int = 256) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    start, missing = 0, set(numbers)
    for batch in source.batches(batch_size):
        here = {number for number in missing if number < start + len(batch.images)}
        found |= {number: batch.images[number - start] for number in here}
        start, missing = start + len(batch.images), missing - here
        if not missing:
            break
    return found


def _typical_distance(features: Tensor, most: int = 1000) -> float:
    some = features[:: max(1, len(features) // most)]
    return float(torch.cdist(some, features).kthvalue(min(2, len(features))).values.median())
