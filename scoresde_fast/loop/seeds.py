# SPDX-License-Identifier: Apache-2.0
"""The assignment of a condition's items, such as known images or classes, to seeds, and base classes that use it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde_fast.loop.condition import Data


class SeedAssignment:
    """Maps seeds to items in equal consecutive blocks or round-robin; a single item is used for all seeds.

    Args:
        count: the number of items.
        item: the noun for an item in messages, such as "known image".
        seeds: the seeds of the first item, then those of the second, and so on; None for a single item or round-robin.
        round_robin: assign the item s mod ``count`` to seed s.

    Raises:
        ValueError: several items have no seeds, the seeds do not divide among the items, or a seed is repeated.
    """

    def __init__(self, count: int, item: str, seeds: Sequence[int] | None, *, round_robin: bool = False) -> None:
        self.count, self.item, self.round_robin = count, item, round_robin
        self.seeds = None if seeds is None else list(seeds)
        self._index_of_seed: dict[int, int] = {}
        plural = f"{item}es" if item.endswith("s") else f"{item}s"
        if seeds is None:
            if count > 1 and not round_robin:
                raise ValueError(f"there are {count} {plural}: pass the seeds of each as seeds=...")
            return
        if not seeds or len(seeds) % count:
            raise ValueError(f"there are {len(seeds)} seeds for {count} {plural}; give each the same number of seeds")
        if count > 1 and len(set(seeds)) < len(seeds):
            repeated = Counter(seeds).most_common(1)[0][0]
            raise ValueError(f"seed {repeated} belongs to two {plural}; give each its own seeds")
        block = len(seeds) // count
        self._index_of_seed = {seed: position // block for position, seed in enumerate(seeds)}

    def require(self, seeds: Sequence[int]) -> None:
        """Raise ``ValueError`` unless every seed has an item."""
        if self.count == 1 or self.round_robin:
            return
        if missing := [seed for seed in seeds if seed not in self._index_of_seed]:
            raise ValueError(f"seed {missing[0]} has no {self.item}; add it to the condition's seeds")

    def item_indices(self, sample_ids: Tensor) -> Tensor:
        """Return each sample's item index (B,) int64 on the device of ``sample_ids``; 0 for a seed without an item."""
        if self.round_robin:
            return sample_ids % self.count
        indices = [self._index_of_seed.get(seed, 0) for seed in sample_ids.tolist()]
        return torch.tensor(indices, dtype=torch.int64, device=sample_ids.device)

    def sha256(self, items: Tensor, *others: Tensor) -> str:
        """Return a hash of the seeds, the shape of ``items``, and the data of all tensors, (``count``, ...) each."""
        digest = hashlib.sha256(repr((tuple(items.shape), self.seeds)).encode())
        for tensor in (items, *others):
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()


class SeededCondition:
    """Base class of conditions with items that are assigned to seeds."""

    assignment: SeedAssignment

    def require_seeds(self, seeds: Sequence[int]) -> None:
        """Raise ``ValueError`` unless every seed has an item."""
        self.assignment.require(seeds)


class BoundItems:
    """Base class of bound conditions: the data of a condition's K items, ``tensors`` (K, ...) on the run's device."""

    def __init__(self, assignment: SeedAssignment, *tensors: Tensor) -> None:
        self._assignment, self._tensors = assignment, tensors

    def data(self, sample_ids: Tensor) -> Data:
        """Return the rows (B, ...) of each tensor for ``sample_ids`` (B,)."""
        indices = self._assignment.item_indices(sample_ids)
        return tuple(tensor[indices] for tensor in self._tensors)

    def empty_data(self, batch: int) -> Data:
        """Return zeros in the shapes of `data`."""
        return tuple(tensor.new_zeros(batch, *tensor.shape[1:]) for tensor in self._tensors)
