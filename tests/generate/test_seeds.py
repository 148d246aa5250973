# SPDX-License-Identifier: Apache-2.0
"""Seeds: parsing and formatting, sets, and shards."""

from __future__ import annotations

import pickle
import random
import re

import numpy as np
import pytest

from scoresde_fast.generate.seeds import SeedSet, Shard, check_seeds, format_seeds, parse_seeds
from scoresde_fast.noise import LARGEST_SEED

pytestmark = pytest.mark.same_everywhere


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("7", [7]),
        ("0-3", [0, 1, 2, 3]),
        ("5-5", [5]),
        ("0-2,100,200-201", [0, 1, 2, 100, 200, 201]),
        (" 9, 3-4 ", [9, 3, 4]),
        ("007", [7]),
        (str(2**63 - 1), [2**63 - 1]),
    ],
)
def test_parse(text: str, seeds: list[int]) -> None:
    """Integers and inclusive ranges are returned in their order."""
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is neither an integer >= 0 nor a range"),
        ("0-3,", "'' is neither an integer >= 0 nor a range"),
        ("a", "'a' is neither"),
        ("1.5", "'1.5' is neither"),
        ("-3", "'-3' is neither"),
        ("0--3", "'0--3' is neither"),
        ("1-2-3", "'1-2-3' is neither"),
        ("٣", "is neither"),
        ("0-3,9-5", "the range '9-5' is reversed; write 5-9"),
        ("4,1,4", "contain 4 twice"),
        ("0-10,5-6,30", "contain 5 twice"),
        ("5,0-10", "contain 5 twice"),
        (str(2**63), "is too large"),
        ("0-99999999999", "are 100000000000 seeds"),
    ],
)
def test_parse_refuses(text: str, says: str) -> None:
    """Malformed, negative, reversed, repeated, overlapping and too many seeds are refused."""
    with pytest.raises(ValueError, match=f"{re.escape(repr(text))}.*{re.escape(says)}"):
        parse_seeds(text)


@pytest.mark.parametrize("seeds", [[3], [0, 1, 2], [2, 1, 0], [5, 6, 1, 2, 9], [4, 5, 3]])
def test_format_inverts_parse(seeds: list[int]) -> None:
    """`parse_seeds` returns the list that was formatted."""
    assert parse_seeds(format_seeds(seeds)) == seeds


def test_format_ranges() -> None:
    """Consecutive seeds are formatted as a range."""
    assert format_seeds([*range(50_000), 7_000_000]) == "0-49999,7000000"


@pytest.mark.parametrize(
    ("seeds", "says"), [([], "no seeds"), ([1, -2], "seed -2"), ([4, 5, 4], "seed 4 occurs twice"), ([2**63], "seed 9")]
)
def test_check_refuses(seeds: list[int], says: str) -> None:
    """Lists in Python are checked as on the command line."""
    with pytest.raises(ValueError, match=says):
        check_seeds(seeds)


def random_set(generator: random.Random) -> set[int]:
    """Return random ranges of integers below 60."""
    seeds: set[int] = set()
    for _ in range(generator.randrange(6)):
        start = generator.randrange(60)
        seeds |= set(range(start, min(60, start + generator.randrange(1, 9))))
    return seeds


@pytest.mark.parametrize("case", range(200))
def test_set_operations(case: int) -> None:
    """A SeedSet behaves as a set of integers."""
    generator = random.Random(case)
    a, b = random_set(generator), random_set(generator)
    ranges_a, ranges_b = SeedSet.of(a), SeedSet.of(b)
    for name in ("__or__", "__and__", "__sub__"):
        result = getattr(ranges_a, name)(ranges_b)
        assert list(result) == sorted(getattr(a, name)(b))
        assert result == SeedSet.of(getattr(a, name)(b)), "adjacent ranges are merged"
    assert len(ranges_a) == len(a) and [seed in ranges_a for seed in range(60)] == [seed in a for seed in range(60)]
    assert ranges_a.array().tolist() == sorted(a)
    assert SeedSet.parse(str(ranges_a)) == ranges_a
    batches = list(ranges_a.batches(7))
    assert [seed for batch in batches for seed in batch] == sorted(a) and all(len(batch) == 7 for batch in batches[:-1])
    assert ranges_a.take(5) == sorted(a)[:5]


def test_limits() -> None:
    """Set operations are right for the smallest and the largest seed."""
    everything = SeedSet.of(range(LARGEST_SEED + 1))
    assert str(everything) == f"0-{LARGEST_SEED}"
    inside = SeedSet.parse(f"0,5,{LARGEST_SEED}")
    assert str(everything - inside) == f"1-4,6-{LARGEST_SEED - 1}"
    assert not len(inside - everything) and inside & everything == inside
    assert (SeedSet.parse(f"1-4,6-{LARGEST_SEED - 1}") | inside) == everything


def test_long_ranges() -> None:
    """Fifty million consecutive seeds take little memory and time."""
    many = SeedSet.parse("0-49999999")
    assert len(many) == 50_000_000 and len(pickle.dumps(many)) < 1000
    assert len(many - SeedSet.parse("7,9")) == 49_999_998


@pytest.mark.parametrize(("seeds", "says"), [([-1], "seed -1"), ([2**63], "seed 9223372036854775808")])
def test_out_of_range(seeds: list[int], says: str) -> None:
    """The message names the invalid seed."""
    with pytest.raises(ValueError, match=says):
        SeedSet.of(seeds)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("text", ["0-999", "5-37,100,1000-1100", f"{LARGEST_SEED - 40}-{LARGEST_SEED}", "3"])
def test_shards_are_a_partition(text: str, count: int) -> None:
    """Every seed is in exactly one shard."""
    seeds = SeedSet.parse(text)
    shards = [Shard(index, count).of(seeds) for index in range(count)]
    assert SeedSet.union(shards) == seeds
    assert sum(map(len, shards)) == len(seeds)


def test_shards_are_even() -> None:
    """Shards of a long range differ by at most one block; the shard of a seed does not depend on other seeds."""
    seeds = SeedSet.parse("0-49999")
    sizes = [len(Shard(index, 16).of(seeds)) for index in range(16)]
    assert max(sizes) - min(sizes) <= 16
    part = SeedSet.parse("77-123")
    assert Shard(3, 5).of(part) == Shard(3, 5).of(seeds) & part


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("3", "'3' is not a shard; give the shard and the number of shards, like 3/16"),
        ("a/b", "'a/b' is not a shard"),
        ("0/4", "0/4 does not exist; the shards are 1/4 to 4/4"),
        ("5/4", "5/4 does not exist"),
        ("1/0", "1/0 does not exist"),
    ],
)
def test_no_such_shard(text: str, says: str) -> None:
    """An invalid shard is refused; the message gives the valid ones."""
    with pytest.raises(ValueError, match=re.escape(says)):
        Shard.parse(text)


def test_shard_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """RANK and WORLD_SIZE of torchrun choose the shard of a process, by default the whole set."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert Shard.of_process() == Shard(0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert Shard.of_process() == Shard(2, 8) == Shard.parse("3/8")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("2", "-1", "x"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(ValueError, match=f"RANK is {rank!r} and WORLD_SIZE '2'"):
            Shard.of_process()


def test_numpy_integers() -> None:
    """NumPy integers are valid seeds."""
    assert SeedSet.of(np.array([3, 1, 2])) == SeedSet.parse("1-3")
