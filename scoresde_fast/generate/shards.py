# SPDX-License-Identifier: Apache-2.0
"""Which of a set's seeds a process makes, when several make one set."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scoresde_fast.generate.seed_set import SeedSet

RUN = 16
"""Seeds in a row that one process makes: so a share is a property of the seed, whatever else is asked for."""
_SHARD = re.compile(r"(\d+)/(\d+)", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """Share number ``index``, from 0, of ``count``."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``3/16``: the third of sixteen.

        Raises:
            ValueError: it is no such text, or there is no such share.
        """
        match = _SHARD.fullmatch(text)
        if match is None:
            raise ValueError(f"--shard {text!r} cannot be read; write the share and how many there are, like 3/16")
        number, count = int(match[1]), int(match[2])
        if not 1 <= number <= count:
            raise ValueError(f"--shard {text} is none of {count} shares; they are 1/{count} to {count}/{count}")
        return cls(number - 1, count)

    @classmethod
    def of_process(cls, environment: Mapping[str, str] = os.environ) -> Shard:
        """The share of a process that torchrun started, by RANK and WORLD_SIZE; all of another's.

        Raises:
            ValueError: the two are no such numbers.
        """
        rank, size = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
        if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
            raise ValueError(f"RANK is {rank!r} and WORLD_SIZE {size!r}; the rank must be a number below the size")
        return cls(int(rank), int(size))

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"

    def of(self, seeds: SeedSet) -> SeedSet:
        """This share of ``seeds``: every ``count``-th run of `RUN` seeds in the order of numbers."""
        if self.count == 1:
            return seeds
        first_run, last_run = seeds.first // RUN, seeds.last // RUN
        # The first run of this share in each range, and how many there are.
        begin = first_run + (self.index - first_run) % self.count
        counts = np.maximum((last_run - begin) // self.count + 1, 0)
        place = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        runs = np.unique(np.repeat(begin, counts) + place * self.count)
        return SeedSet(runs * RUN, runs * RUN + (RUN - 1)) & seeds
