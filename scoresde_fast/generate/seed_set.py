# SPDX-License-Identifier: Apache-2.0
"""Distinct seeds in ascending order, kept as ranges: fifty million of them are a few numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scoresde_fast.generate.seeds import format_ranges, parse_ranges
from scoresde_fast.noise import LARGEST_SEED, check_seed

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SeedSet:
    """Ranges from ``first`` to ``last``, both included, ascending and with gaps between them.

    ``a | b``, ``a & b`` and ``a - b`` take time by the number of ranges, not of seeds.
    """

    first: Integers
    last: Integers

    @classmethod
    def of(cls, seeds: Iterable[int] | SeedSet) -> SeedSet:
        """The set of ``seeds``, whatever their order and however often each occurs.

        Raises:
            ValueError: one is no whole number from 0 to 2^63 - 1.
        """
        if isinstance(seeds, SeedSet):
            return seeds
        if isinstance(seeds, range) and abs(seeds.step) == 1:
            return cls._of_range(*sorted((seeds[0], seeds[-1]))) if seeds else EMPTY
        values = np.unique(np.fromiter(map(check_seed, seeds), np.int64))
        return cls.merged(values, values)

    @classmethod
    def parse(cls, text: str) -> SeedSet:
        """The set that ``text`` names, ``0-63,100``; none for an empty text.

        Raises:
            ValueError: as `parse_seeds`.
        """
        ranges = parse_ranges(text) if text else []
        first = np.array([seeds.start for seeds in ranges], np.int64)
        last = np.array([seeds[-1] for seeds in ranges], np.int64)
        return cls.merged(first, last)

    @classmethod
    def _of_range(cls, first: int, last: int) -> SeedSet:
        return cls(np.array([check_seed(first)], np.int64), np.array([check_seed(last)], np.int64))

    @classmethod
    def union(cls, sets: Iterable[SeedSet]) -> SeedSet:
        """All the seeds of any number of sets."""
        found = [EMPTY, *sets]
        return cls.merged(
            np.concatenate([seeds.first for seeds in found]), np.concatenate([seeds.last for seeds in found])
        )

    @classmethod
    def merged(cls, first: Integers, last: Integers) -> SeedSet:
        """Of ranges in any order, which may overlap or touch."""
        if not len(first):
            return EMPTY
        order = np.argsort(first, kind="stable")
        first, reach = first[order], np.maximum.accumulate(last[order])
        begins = np.concatenate([[True], first[1:] - 1 > reach[:-1]])
        ends = np.concatenate([begins[1:], [True]])
        return cls(first[begins], reach[ends])

    def __str__(self) -> str:
        return format_ranges(zip(self.first.tolist(), self.last.tolist(), strict=True))

    def __len__(self) -> int:
        return int((self.last - self.first + 1).sum())

    def __iter__(self) -> Iterator[int]:
        for first, last in zip(self.first.tolist(), self.last.tolist(), strict=True):
            yield from range(first, last + 1)

    def __contains__(self, seed: int) -> bool:
        place = int(np.searchsorted(self.first, seed, side="right")) - 1
        return place >= 0 and seed <= int(self.last[place])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SeedSet):
            return NotImplemented
        return np.array_equal(self.first, other.first) and np.array_equal(self.last, other.last)

    def __or__(self, other: SeedSet) -> SeedSet:
        return self.union((self, other))

    def __and__(self, other: SeedSet) -> SeedSet:
        # Of other's ranges, each of mine meets those from `begin` to `end`.
        begin = np.searchsorted(other.last, self.first, side="left")
        end = np.searchsorted(other.first, self.last, side="right")
        counts = np.maximum(end - begin, 0)
        mine = np.repeat(np.arange(len(self.first)), counts)
        theirs = np.arange(len(mine)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(begin, counts)
        return SeedSet(
            np.maximum(self.first[mine], other.first[theirs]), np.minimum(self.last[mine], other.last[theirs])
        )

    def __sub__(self, other: SeedSet) -> SeedSet:
        return self & other._complement()

    def _complement(self) -> SeedSet:
        first = np.concatenate([[0], self.last[self.last < LARGEST_SEED] + 1])
        last = np.concatenate([self.first - 1, [LARGEST_SEED]])[: len(first)]
        kept = first <= last
        return SeedSet(first[kept], last[kept])

    def array(self) -> Integers:
        """Every seed, (N,) int64."""
        counts = self.last - self.first + 1
        offsets = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(self.first, counts) + offsets

    def batches(self, size: int) -> Iterator[list[int]]:
        """Consecutive pieces of ``size`` seeds, the last one perhaps of fewer."""
        batch: list[int] = []
        for seed in self:
            batch.append(seed)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    def take(self, count: int) -> list[int]:
        """The first ``count`` seeds, or all."""
        return next(self.batches(count), [])


EMPTY = SeedSet(np.zeros(0, np.int64), np.zeros(0, np.int64))
