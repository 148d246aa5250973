# SPDX-License-Identifier: Apache-2.0
"""Which data belong to which seed: a condition may hold one for all, or as many seeds to each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class OfSeeds:
    """Places of the data of seeds.

    Attributes:
        count: how many data there are.
        what: one of them in words, as "known image".
        place: of the data of each seed; empty where one belongs to all.
    """

    count: int
    what: str
    place: dict[int, int]

    @classmethod
    def of(cls, seeds: Sequence[int] | None, count: int, what: str) -> OfSeeds:
        """As many of ``seeds`` to each of the data, those of the first one first; None where there is but one.

        Raises:
            ValueError: there are no seeds for several data, not as many for each, or one seed twice.
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
        """Raises ``ValueError`` unless there is data for every seed."""
        if self.count > 1 and (missing := [seed for seed in seeds if seed not in self.place]):
            raise ValueError(f"no {self.what} belongs to seed {missing[0]}: name it in the seeds of the condition")

    def places(self, sample_ids: Tensor) -> Tensor:
        """The place of each sample's data (B,) int64, on its device; 0 for one that has none."""
        places = [self.place.get(seed, 0) for seed in sample_ids.tolist()]
        return torch.tensor(places, dtype=torch.int64, device=sample_ids.device)
