# SPDX-License-Identifier: Apache-2.0
"""The images of a set that are nearest to a few samples in feature space: does a model repeat its training set?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde_fast.data.sources import ImageSource


@dataclass(frozen=True)
class Neighbours:
    """Of each of S samples the K nearest images of a set of N, the nearest first.

    Attributes:
        images: (S, K, C, H, W) uint8.
        distances: (S, K), Euclidean, between features.
        typical: the median distance from an image of the set to the nearest other one.
    """

    images: Tensor
    distances: Tensor
    typical: float


def nearest(features: Tensor, others: Tensor, source: ImageSource, k: int = 4) -> Neighbours:
    """Of samples with ``features`` (S, D) among the images of ``source``, whose features are ``others`` (N, D)."""
    k = min(k, len(others))
    distances, places = torch.cdist(features, others).topk(k, largest=False)
    wanted = _images_at(set(places.flatten().tolist()), source)
    rows = [torch.stack([wanted[place] for place in row]) for row in places.tolist()]
    return Neighbours(torch.stack(rows), distances, _typical(others))


def _images_at(places: Iterable[int], source: ImageSource, batch_size: int = 256) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    start = 0
    places = sorted(places)
    for batch in source.batches(batch_size):
        inside = [place for place in places if start <= place < start + len(batch.images)]
        found |= {place: batch.images[place - start] for place in inside}
        start += len(batch.images)
        if len(found) == len(places):
            break
    return found


def _typical(features: Tensor, asked: int = 1000) -> float:
    some = features[:: max(1, len(features) // asked)]
    return float(torch.cdist(some, features).kthvalue(min(2, len(features))).values.median())
