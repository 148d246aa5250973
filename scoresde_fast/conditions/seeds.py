# SPDX-License-Identifier: Apache-2.0
"""The assignment of a condition's items, such as known images or classes, to seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SeedAssignment:
    """Maps seeds to items in equal consecutive blocks or round-robin; a single item is used for all seeds.

    Attributes:
        count: the number of items.
        item: the noun for an item in messages, such as "known image".
        index_of_seed: the index of each seed's item; empty if all seeds share one item.
        round_robin: seed s has the item s mod ``count``.
    """

    count: int
    item: str
    index_of_seed: dict[int, int]
    round_robin: bool = False

    @classmethod
    def of(cls, seeds: Sequence[int] | None, count: int, item: str) -> SeedAssignment:
        """Assign the first block of ``seeds`` to the first item, and so on.

        None is allowed for a single item, which is then used for all seeds.

        Raises:
            ValueError: several items have no seeds, the seeds do not divide among the items, or a seed is repeated.
        """
        items = f"{item}es" if item.endswith("s") else f"{item}s"
        if seeds is None:
            if count > 1:
                raise ValueError(f"there are {count} {items}: pass the seeds of each as seeds=...")
            return cls(count, item, {})
        if not seeds or len(seeds) % count:
            raise ValueError(f"there are {len(seeds)} seeds for {count} {items}; give each the same number of seeds")
        if count > 1 and len(set(seeds)) < len(seeds):
            repeated = Counter(seeds).most_common(1)[0][0]
            raise ValueError(f"seed {repeated} belongs to two {items}; give each its own seeds")
        block = len(seeds) // count
        return cls(count, item, {seed: position // block for position, seed in enumerate(seeds)})

    def require(self, seeds: Sequence[int]) -> None:
        """Raise ``ValueError`` unless every seed has an item."""
        if self.count == 1 or self.round_robin:
            return
        if missing := [seed for seed in seeds if seed not in self.index_of_seed]:
            raise ValueError(f"seed {missing[0]} has no {self.item}; add it to the condition's seeds")

    def item_indices(self, sample_ids: Tensor) -> Tensor:
        """Return each sample's item index (B,) int64 on the device of ``sample_ids``; 0 for a seed without an item."""
        if self.round_robin:
            return sample_ids % self.count
        indices = [self.index_of_seed.get(seed, 0) for seed in sample_ids.tolist()]
        return torch.tensor(indices, dtype=torch.int64, device=sample_ids.device)
