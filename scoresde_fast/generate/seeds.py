# SPDX-License-Identifier: Apache-2.0
"""Seeds of a set: their text form ``0-63,100``, sets of them kept as ranges, and the shard of each process."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from scoresde_fast.noise import LARGEST_SEED, check_seed

Integers = npt.NDArray[np.int64]

LONGEST_LIST = 10**8
BLOCK = 16
"""Consecutive seeds of one shard. The shard of a seed depends on nothing but the seed and the number of shards."""
_PART = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)
_SHARD = re.compile(r"(\d+)/(\d+)", re.ASCII)


def parse_seeds(text: str) -> list[int]:
    """Return the seeds that ``text`` names, in its order: numbers and inclusive ranges, separated by commas.

    Raises:
        ValueError: a part is neither a number nor a range, a range is reversed, a seed is repeated, or too many.
    """
    ranges = _parse_ranges(text)
    if (count := sum(seeds.stop - seeds.start for seeds in ranges)) > LONGEST_LIST:
        raise ValueError(f"seeds {text!r} are {count} samples; a list takes at most {LONGEST_LIST}, so split the range")
    return [seed for seeds in ranges for seed in seeds]


def format_seeds(seeds: Iterable[int]) -> str:
    """Return the shortest text that `parse_seeds` reads back as ``seeds``, order included."""
    ranges: list[list[int]] = []
    for seed in seeds:
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    return _format_ranges(ranges)


def check_seeds(seeds: Iterable[int]) -> list[int]:
    """Return ``seeds`` as a list of distinct integers >= 0.

    Raises:
        ValueError: the list is empty, or a seed is negative, too large or repeated.
    """
    checked = [check_seed(seed) for seed in seeds]
    if not checked:
        raise ValueError("no seeds: name at least one, for instance 0-63")
    seen: set[int] = set()
    for seed in checked:
        if seed in seen:
            raise ValueError(f"seed {seed} occurs twice; each seed makes one image, so name it once")
        seen.add(seed)
    return checked


@dataclass(frozen=True, eq=False)
class SeedSet:
    """Distinct seeds in ascending order, kept as ranges: fifty million consecutive seeds are two numbers.

    ``a | b``, ``a & b`` and ``a - b`` take time proportional to the number of ranges.

    Attributes:
        first, last: the inclusive ends of the ranges, ascending and with gaps between them.
    """

    first: Integers
    last: Integers

    @classmethod
    def of(cls, seeds: Iterable[int] | SeedSet) -> SeedSet:
        """Return the set of ``seeds``, in any order and with repetitions.

        Raises:
            ValueError: a seed is not a whole number from 0 to 2^63 - 1.
        """
        if isinstance(seeds, SeedSet):
            return seeds
        if isinstance(seeds, range) and seeds and abs(seeds.step) == 1:  # without a list of them
            first, last = sorted((check_seed(seeds[0]), check_seed(seeds[-1])))
            return cls(np.array([first], np.int64), np.array([last], np.int64))
        values = np.unique(np.fromiter(map(check_seed, seeds), np.int64))
        return cls.merged(values, values)

    @classmethod
    def parse(cls, text: str) -> SeedSet:
        """Return the set that ``text`` names, ``0-63,100``; an empty text is the empty set.

        Raises:
            ValueError: as `parse_seeds`.
        """
        ranges = _parse_ranges(text) if text else []
        first = np.array([seeds.start for seeds in ranges], np.int64)
        last = np.array([seeds[-1] for seeds in ranges], np.int64)
        return cls.merged(first, last)

    @classmethod
    def union(cls, sets: Iterable[SeedSet]) -> SeedSet:
        """Return all seeds of any number of sets."""
        every = [EMPTY, *sets]
        return cls.merged(np.concatenate([one.first for one in every]), np.concatenate([one.last for one in every]))

    @classmethod
    def merged(cls, first: Integers, last: Integers) -> SeedSet:
        """Return the set of ranges in any order, which may overlap or touch."""
        if not len(first):
            return EMPTY
        order = np.argsort(first, kind="stable")
        first, reach = first[order], np.maximum.accumulate(last[order])
        begins = np.concatenate([[True], first[1:] - 1 > reach[:-1]])
        ends = np.concatenate([begins[1:], [True]])
        return cls(first[begins], reach[ends])

    def __str__(self) -> str:
        return _format_ranges(self._ranges())

    def __len__(self) -> int:
        return int((self.last - self.first + 1).sum())

    def __iter__(self) -> Iterator[int]:
        for first, last in self._ranges():
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
        # Each range of self meets the ranges of other from `begin` to `end`.
        begin = np.searchsorted(other.last, self.first, side="left")
        end = np.searchsorted(other.first, self.last, side="right")
        counts = np.maximum(end - begin, 0)
        mine = np.repeat(np.arange(len(self.first)), counts)
        theirs = _counted(counts) + np.repeat(begin, counts)
        return SeedSet(
            np.maximum(self.first[mine], other.first[theirs]), np.minimum(self.last[mine], other.last[theirs])
        )

    def __sub__(self, other: SeedSet) -> SeedSet:
        # The gaps of other, which may be empty at both ends.
        first = np.concatenate([[0], other.last[other.last < LARGEST_SEED] + 1])
        last = np.concatenate([other.first - 1, [LARGEST_SEED]])[: len(first)]
        kept = first <= last
        return self & SeedSet(first[kept], last[kept])

    def array(self) -> Integers:
        """Return every seed, (N,) int64."""
        counts = self.last - self.first + 1
        return np.repeat(self.first, counts) + _counted(counts)

    def batches(self, size: int) -> Iterator[list[int]]:
        """Yield consecutive batches of ``size`` seeds; the last one may be smaller."""
        batch: list[int] = []
        for seed in self:
            batch.append(seed)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    def take(self, count: int) -> list[int]:
        """Return the first ``count`` seeds, or all of a smaller set."""
        return next(self.batches(count), [])

    def _ranges(self) -> Iterator[tuple[int, int]]:
        return zip(self.first.tolist(), self.last.tolist(), strict=True)


EMPTY = SeedSet(np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Shard:
    """Shard number ``index``, from 0, of the ``count`` shards that several processes make of one set."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``3/16``, the third shard of sixteen.

        Raises:
            ValueError: ``text`` has another form, or there is no such shard.
        """
        match = _SHARD.fullmatch(text)
        if match is None:
            raise ValueError(f"--shard {text!r} cannot be read; write the shard and the number of shards, like 3/16")
        number, count = int(match[1]), int(match[2])
        if not 1 <= number <= count:
            raise ValueError(f"--shard {text} does not exist; the shards are 1/{count} to {count}/{count}")
        return cls(number - 1, count)

    @classmethod
    def of_process(cls, environment: Mapping[str, str] = os.environ) -> Shard:
        """Return the shard of a process that torchrun started, by RANK and WORLD_SIZE; without them the whole set.

        Raises:
            ValueError: RANK is not a number below WORLD_SIZE.
        """
        rank, size = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
        if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
            raise ValueError(f"RANK is {rank!r} and WORLD_SIZE {size!r}; the rank must be a number below the size")
        return cls(int(rank), int(size))

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"

    def of(self, seeds: SeedSet) -> SeedSet:
        """Return this shard of ``seeds``: every ``count``-th block of `BLOCK` consecutive numbers."""
        if self.count == 1:
            return seeds
        first_block, last_block = seeds.first // BLOCK, seeds.last // BLOCK
        begin = first_block + (self.index - first_block) % self.count  # this shard's first block in each range
        counts = np.maximum((last_block - begin) // self.count + 1, 0)
        blocks = np.unique(np.repeat(begin, counts) + _counted(counts) * self.count)
        return SeedSet(blocks * BLOCK, blocks * BLOCK + (BLOCK - 1)) & seeds


def _counted(counts: Integers) -> Integers:
    """Return 0, 1, ..., count - 1 for each of ``counts``, one after another."""
    return np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)


def _parse_ranges(text: str) -> list[range]:
    ranges = [_parse_part(part.strip(), text) for part in text.split(",")]
    for before, after in pairwise(sorted(ranges, key=lambda seeds: seeds.start)):
        if after.start < before.stop:
            raise ValueError(f"seeds {text!r} name {after.start} twice; each seed makes one image, so name it once")
    return ranges


def _parse_part(part: str, text: str) -> range:
    if not (match := _PART.fullmatch(part)):
        raise ValueError(
            f"seeds {text!r}: {part!r} is neither a number nor a range; write whole numbers >= 0 like 0-63,100,200-203"
        )
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise ValueError(f"seeds {text!r}: the range {part!r} is reversed; write {last}-{first}")
    if last > LARGEST_SEED:
        raise ValueError(f"seeds {text!r}: {last} is too large; a seed is at most {LARGEST_SEED}")
    return range(first, last + 1)


def _format_ranges(ranges: Iterable[Iterable[int]]) -> str:
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
