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
    """Assigns seeds to items in equal consecutive blocks, or in turn; a single item serves every seed.

    Attributes:
        count: the number of items.
        item: an item in words, such as "known image".
        number: the item number of each seed; empty if one item serves every seed.
        in_turn: seed s has item s mod ``count``.
    """

    count: int
    item: str
    number: dict[int, int]
    in_turn: bool = False

    @classmethod
    def of(cls, seeds: Sequence[int] | None, count: int, item: str) -> SeedAssignment:
        """Assign the first block of ``seeds`` to the first item, and so on; None serves a single item.

        Raises:
            ValueError: several items have no seeds, the blocks would not be equal, or a seed is given twice.
        """
        items = f"{item[:-1]}ies" if item.endswith("y") else f"{item}es" if item.endswith("s") else f"{item}s"
        if seeds is None:
            if count > 1:
                raise ValueError(f"there are {count} {items}: name the seeds that belong to each, as seeds=...")
            return cls(count, item, {})
        if not seeds or len(seeds) % count:
            raise ValueError(f"there are {len(seeds)} seeds for {count} {items}; give each the same number of seeds")
        if count > 1 and len(set(seeds)) < len(seeds):
            twice = Counter(seeds).most_common(1)[0][0]
            raise ValueError(f"seed {twice} belongs to two {items}; give each its own seeds")
        block = len(seeds) // count
        return cls(count, item, {seed: index // block for index, seed in enumerate(seeds)})

    def require(self, seeds: Sequence[int]) -> None:
        """Raise ``ValueError`` unless every seed has an item."""
        if self.count == 1 or self.in_turn:
            return
        if missing := [seed for seed in seeds if seed not in self.number]:
            raise ValueError(f"no {self.item} belongs to seed {missing[0]}: add it to the seeds of the condition")

    def numbers(self, sample_ids: Tensor) -> Tensor:
        """Return the item number (B,) int64 of each sample, on its device; 0 for a seed without an item."""
        if self.in_turn:
            return sample_ids % self.count
        numbers = [self.number.get(seed, 0) for seed in sample_ids.tolist()]
        return torch.tensor(numbers, dtype=torch.int64, device=sample_ids.device)
