# SPDX-License-Identifier: Apache-2.0
"""Parsing and formatting of seeds (``0-63,100``), sets of seeds, and shards of a set."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt

from scoresde_fast.noise import LARGEST_SEED, check_seed

Integers = npt.NDArray[np.int64]

MAX_LIST = 10**8
BLOCK = 16
"""Length of a shard's blocks of consecutive seeds, which are assigned to the shards round-robin."""
_PART = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)
_SHARD = re.compile(r"(\d+)/(\d+)", re.ASCII)


def parse_seeds(text: str) -> list[int]:
    """Parse integers and inclusive ranges, separated by commas, and return the seeds in their order.

    Raises:
        ValueError: a part is neither an integer nor a range, a range is reversed, a seed is repeated, or there are more
            than `MAX_LIST` seeds.
    """
    ranges = _parse_ranges(text)
    if (count := sum(seeds.stop - seeds.start for seeds in ranges)) > MAX_LIST:
        raise ValueError(f"seeds {text!r} are {count} seeds; the limit is {MAX_LIST}, so split the range")
    return [seed for seeds in ranges for seed in seeds]


def format_seeds(seeds: Iterable[int]) -> str:
    """Return the shortest string that `parse_seeds` reads back as ``seeds``, in the same order."""
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
        raise ValueError("no seeds: give at least one, for instance 0-63")
    seen: set[int] = set()
    for seed in checked:
        if seed in seen:
            raise ValueError(f"seed {seed} occurs twice; give each seed once")
        seen.add(seed)
    return checked


@dataclass(frozen=True, eq=False)
class SeedSet:
    """A sorted set of seeds, stored as ranges: fifty million consecutive seeds take two integers.

    ``a | b``, ``a & b`` and ``a - b`` take time proportional to the number of ranges.

    Attributes:
        first, last: (R,), the inclusive ends of the ranges, which are ascending and have gaps between them.
    """

    first: Integers
    last: Integers

    @classmethod
    def of(cls, seeds: Iterable[int] | SeedSet) -> SeedSet:
        """Return the set of ``seeds``, which may be unsorted and repeated.

        Raises:
            ValueError: a seed is not an integer from 0 to 2^63 - 1.
        """
        if isinstance(seeds, SeedSet):
            return seeds
        if isinstance(seeds, range) and seeds and abs(seeds.step) == 1:  # without iterating over it
            first, last = sorted((check_seed(seeds[0]), check_seed(seeds[-1])))
            return cls(np.array([first], np.int64), np.array([last], np.int64))
        return cls.of_array(np.fromiter(map(check_seed, seeds), np.int64))

    @classmethod
    def of_array(cls, seeds: Integers) -> SeedSet:
        """Return the set of valid ``seeds`` (N,), which may be unsorted and repeated."""
        return cls.merged(seeds, seeds)

    @classmethod
    def parse(cls, text: str) -> SeedSet:
        """Parse a string such as ``0-63,100``; the empty string is the empty set.

        Raises:
            ValueError: as `parse_seeds`, but without a limit.
        """
        ranges = _parse_ranges(text) if text else []
        first = np.array([seeds.start for seeds in ranges], np.int64)
        last = np.array([seeds[-1] for seeds in ranges], np.int64)
        return cls.merged(first, last)

    @classmethod
    def union(cls, sets: Iterable[SeedSet]) -> SeedSet:
        """Return the union of any number of sets."""
        sets = [EMPTY, *sets]
        return cls.merged(np.concatenate([each.first for each in sets]), np.concatenate([each.last for each in sets]))

    @classmethod
    def merged(cls, first: Integers, last: Integers) -> SeedSet:
        """Return the union of ranges, which may be unsorted, overlap or touch."""
        if not len(first):
            return EMPTY
        order = np.argsort(first, kind="stable")
        first, last = first[order], np.maximum.accumulate(last[order])
        is_start = np.concatenate([[True], first[1:] - 1 > last[:-1]])
        is_end = np.concatenate([is_start[1:], [True]])
        return cls(first[is_start], last[is_end])

    def __str__(self) -> str:
        return _format_ranges(self.ranges())

    def __len__(self) -> int:
        return int((self.last - self.first + 1).sum())

    def __iter__(self) -> Iterator[int]:
        for first, last in self.ranges():
            yield from range(first, last + 1)

    def __contains__(self, seed: int) -> bool:
        index = int(np.searchsorted(self.first, seed, side="right")) - 1
        return index >= 0 and seed <= int(self.last[index])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SeedSet):
            return NotImplemented
        return np.array_equal(self.first, other.first) and np.array_equal(self.last, other.last)

    def __or__(self, other: SeedSet) -> SeedSet:
        return self.union((self, other))

    def __and__(self, other: SeedSet) -> SeedSet:
        # Each range of self overlaps with the ranges begin, ..., end - 1 of other.
        begin = np.searchsorted(other.last, self.first, side="left")
        end = np.searchsorted(other.first, self.last, side="right")
        counts = np.maximum(end - begin, 0)
        mine = np.repeat(np.arange(len(self.first)), counts)
        theirs = _counters(counts) + np.repeat(begin, counts)
        return SeedSet(
            np.maximum(self.first[mine], other.first[theirs]), np.minimum(self.last[mine], other.last[theirs])
        )

    def __sub__(self, other: SeedSet) -> SeedSet:
        # Intersect with the gaps of other; the gaps before its first and after its last range may be empty.
        first = np.concatenate([[0], other.last[other.last < LARGEST_SEED] + 1])
        last = np.concatenate([other.first - 1, [LARGEST_SEED]])[: len(first)]
        nonempty = first <= last
        return self & SeedSet(first[nonempty], last[nonempty])

    def array(self) -> Integers:
        """Return all seeds, (N,) int64."""
        counts = self.last - self.first + 1
        return np.repeat(self.first, counts) + _counters(counts)

    def batches(self, size: int) -> Iterator[list[int]]:
        """Yield batches of ``size`` seeds in ascending order; the last one may be smaller."""
        seeds = iter(self)
        while batch := list(islice(seeds, size)):
            yield batch

    def take(self, count: int) -> list[int]:
        """Return the first ``count`` seeds, or all if there are fewer."""
        return list(islice(self, count))

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Return (first, last) of each range, ascending."""
        return zip(self.first.tolist(), self.last.tolist(), strict=True)


EMPTY = SeedSet(np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Shard:
    """Shard ``index`` (0-based) of ``count``: the part of a set that one process writes.

    The shard of a seed depends only on the seed and ``count``.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse a 1-based shard: ``3/16`` is the third of sixteen.

        Raises:
            ValueError: ``text`` has another form, or there is no such shard.
        """
        match = _SHARD.fullmatch(text)
        if match is None:
            raise ValueError(f"--shard {text!r} is not a shard; give the shard and the number of shards, like 3/16")
        position, count = int(match[1]), int(match[2])
        if not 1 <= position <= count:
            raise ValueError(f"--shard {text} does not exist; the shards are 1/{count} to {count}/{count}")
        return cls(position - 1, count)

    @classmethod
    def of_process(cls) -> Shard:
        """Return the shard given by RANK and WORLD_SIZE, which torchrun sets; if they are not set, the whole set.

        Raises:
            ValueError: RANK is not an integer below WORLD_SIZE.
        """
        rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
            raise ValueError(f"RANK is {rank!r} and WORLD_SIZE {size!r}; RANK must be an integer below WORLD_SIZE")
        return cls(int(rank), int(size))

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"

    def of(self, seeds: SeedSet) -> SeedSet:
        """Return this shard of ``seeds``: every ``count``-th block of `BLOCK` consecutive integers."""
        if self.count == 1:
            return seeds
        first_block, last_block = seeds.first // BLOCK, seeds.last // BLOCK
        begin = first_block + (self.index - first_block) % self.count  # this shard's first block in each range
        counts = np.maximum((last_block - begin) // self.count + 1, 0)
        blocks = np.unique(np.repeat(begin, counts) + _counters(counts) * self.count)
        return SeedSet(blocks * BLOCK, blocks * BLOCK + (BLOCK - 1)) & seeds


def _counters(counts: Integers) -> Integers:
    """Return the concatenation of arange(count) for each of ``counts``."""
    return np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)


def _parse_ranges(text: str) -> list[range]:
    ranges = [_parse_part(part.strip(), text) for part in text.split(",")]
    for before, after in pairwise(sorted(ranges, key=lambda seeds: seeds.start)):
        if after.start < before.stop:
            raise ValueError(f"seeds {text!r} contain {after.start} twice; give each seed once")
    return ranges


def _parse_part(part: str, text: str) -> range:
    if not (match := _PART.fullmatch(part)):
        raise ValueError(
            f"seeds {text!r}: {part!r} is neither an integer >= 0 nor a range; an example is 0-63,100,200-203"
        )
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise ValueError(f"seeds {text!r}: the range {part!r} is reversed; write {last}-{first}")
    if last > LARGEST_SEED:
        raise ValueError(f"seeds {text!r}: {last} is too large; the largest seed is {LARGEST_SEED}")
    return range(first, last + 1)


def _format_ranges(ranges: Iterable[Iterable[int]]) -> str:
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
