# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbours of samples in the training set by their features, to detect copies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde_fast.data.sources import ImageSource


@dataclass(frozen=True)
class Neighbours:
    """The K nearest images of a set for each of S samples, nearest first.

    Attributes:
        images: images (S, K, C, H, W) uint8.
        distances: Euclidean distances (S, K) between features.
        typical: median distance of an image of the set to its nearest neighbour in the set.
    """

    images: Tensor
    distances: Tensor
    typical: float


def nearest(features: Tensor, others: Tensor, source: ImageSource, k: int = 4) -> Neighbours:
    """Find the neighbours of samples with ``features`` (S, D) in ``source``, whose features are ``others`` (N, D)."""
    k = min(k, len(others))
    distances, indices = torch.cdist(features, others).topk(k, largest=False)
    images = _images_at(indices.unique().tolist(), source)
    rows = [torch.stack([images[index] for index in row]) for row in indices.tolist()]
    return Neighbours(torch.stack(rows), distances, _typical_distance(others))


def _images_at(indices: Iterable[int], source: ImageSource, batch_size: int = 256) -> dict[int, Tensor]:
    """Read the images at ``indices`` in one sequential pass, and return them by index."""
    images: dict[int, Tensor] = {}
    start, missing = 0, set(indices)
    for batch in source.batches(batch_size):
        in_batch = {index for index in missing if index < start + len(batch.images)}
        images |= {index: batch.images[index - start] for index in in_batch}
        start, missing = start + len(batch.images), missing - in_batch
        if not missing:
            break
    return images


def _typical_distance(features: Tensor, max_rows: int = 1000) -> float:
    subset = features[:: max(1, len(features) // max_rows)]
    # The nearest row is the image itself, so the second is its neighbour.
    return float(torch.cdist(subset, features).kthvalue(min(2, len(features))).values.median())
