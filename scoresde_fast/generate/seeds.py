# SPDX-License-Identifier: Apache-2.0
"""Seeds as users write them, ``0-63,100,200-203``, and as lists of sample ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from scoresde_fast.noise import LARGEST_SEED, check_seed

MOST = 10**8
_PART = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)


def parse_seeds(text: str) -> list[int]:
    """The seeds that ``text`` names, in its order: numbers and inclusive ranges, separated by commas.

    Raises:
        ValueError: a part is no number or range, a range is reversed, a seed occurs twice, or there are too many for a
            list.
    """
    ranges = parse_ranges(text)
    if (count := sum(seeds.stop - seeds.start for seeds in ranges)) > MOST:
        raise ValueError(f"seeds {text!r} are {count} samples; a list takes at most {MOST}, so split the range")
    return [seed for seeds in ranges for seed in seeds]


def parse_ranges(text: str) -> list[range]:
    """The same as ranges, of as many seeds as there may be."""
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


def format_ranges(ranges: Iterable[tuple[int, int]]) -> str:
    """``0-63,100`` of ranges (first, last)."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def format_seeds(seeds: Iterable[int]) -> str:
    """The shortest text that :func:`parse_seeds` reads back as ``seeds``, order included."""
    return format_ranges(_runs(seeds))


def _runs(seeds: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of neighbours."""
    first = last = None
    for seed in seeds:
        if last is not None and seed == last + 1:
            last = seed
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = seed
    if first is not None and last is not None:
        yield first, last


def check_seeds(seeds: Iterable[int]) -> list[int]:
    """``seeds`` as a list of distinct integers >= 0.

    Raises:
        ValueError: there is none, one is negative or too large, or one occurs twice.
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
