# SPDX-License-Identifier: Apache-2.0
"""The search for the largest batch that fits, and its cache."""

from __future__ import annotations

from pathlib import Path

import pytest

import scoresde_fast as sf
from scoresde_fast.files import cache_folder
from scoresde_fast.loop.batches import cached_batch, largest_batch


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 64, 100, 1000, 4096, 10_000])
def test_largest_batch(limit: int) -> None:
    """The result fits, is within an eighth of the limit, and takes few trials."""
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= limit

    largest = largest_batch(fits)
    assert min(limit, 4096) * 7 / 8 - 1 <= largest <= min(limit, 4096)
    assert len(tried) <= 17 and len(set(tried)) == len(tried)


def test_largest_batch_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is cached for each key, in the user cache folder; an unreadable cache file is ignored."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    key = {"device": "GPU", "precision": "bf16"}
    assert cached_batch(key, lambda: 96) == 96
    assert cached_batch(key, lambda: 1) == 96
    assert cached_batch({**key, "precision": "fp32"}, lambda: 48) == 48
    assert cached_batch(key, lambda: 1) == 96
    assert cache_folder() == tmp_path / "scoresde-fast"
    (cache_folder() / "batch_sizes.json").write_text("[")
    assert cached_batch(key, lambda: 2) == 2


def test_auto_batch_size_on_a_cpu(tiny: sf.ScoreModel) -> None:
    """On a CPU the batch size is 64, without a search."""
    assert sf.Sampler(tiny, "pc", 2, batch_size="auto").batch_size == 64
