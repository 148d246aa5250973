# SPDX-License-Identifier: Apache-2.0
"""The assignment of a condition's items, as known images or classes, to seeds."""

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
        what: an item in words, as "known image".
        place: the item of each seed; empty where any seed has one.
        in_turn: seed s has item s mod ``count``.
    """

    count: int
    what: str
    place: dict[int, int]
    in_turn: bool = False

    @classmethod
    def of(cls, seeds: Sequence[int] | None, count: int, what: str) -> SeedAssignment:
        """The first block of ``seeds`` to the first item, and so on; None where there is a single item.

        Raises:
            ValueError: several items have no seeds, the blocks would not be equal, or a seed is given twice.
        """
        many = f"{what[:-1]}ies" if what.endswith("y") else f"{what}es" if what.endswith("s") else f"{what}s"
        if seeds is None:
            if count > 1:
                raise ValueError(f"there are {count} {many}: name the seeds that belong to each, as seeds=...")
            return cls(count, what, {})
        if not seeds or len(seeds) % count:
            raise ValueError(f"there are {len(seeds)} seeds for {count} {many}; give as many seeds to each")
        if count > 1 and len(set(seeds)) < len(seeds):
            twice = Counter(seeds).most_common(1)[0][0]
            raise ValueError(f"seed {twice} belongs to two {many}; give each its own seeds")
        each = len(seeds) // count
        return cls(count, what, {seed: index // each for index, seed in enumerate(seeds)})

    def require(self, seeds: Sequence[int]) -> None:
        """Raises ``ValueError`` unless every seed has an item."""
        if self.count == 1 or self.in_turn:
            return
        if missing := [seed for seed in seeds if seed not in self.place]:
            raise ValueError(f"no {self.what} belongs to seed {missing[0]}: name it in the seeds of the condition")

    def places(self, sample_ids: Tensor) -> Tensor:
        """The item's number (B,) int64 of each sample, on its device; 0 where it has none."""
        if self.in_turn:
            return sample_ids % self.count
        places = [self.place.get(seed, 0) for seed in sample_ids.tolist()]
        return torch.tensor(places, dtype=torch.int64, device=sample_ids.device)
