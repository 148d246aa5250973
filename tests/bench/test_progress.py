# SPDX-License-Identifier: Apache-2.0
"""Tests of the progress of the comparison: the estimate of the time left."""

from __future__ import annotations

import re

import pytest

from scoresde_fast.bench.progress import Progress, duration


def test_time_left() -> None:
    """Seconds that are linear in the evaluations are predicted exactly, and a time limit bounds them."""
    costs = {"a": 5.0, "b": 10.0, "c": 100.0, "known": 0.0}
    progress, limited = Progress(costs, None), Progress(costs, 50.0)
    assert progress.expected(7) == 0 and re.fullmatch(r"0 of 4, 0 s", str(progress))
    for each in (progress, limited):
        each.finish("a")
        each.add(5, 5.0)
        assert each.expected(10) == pytest.approx(10), "one case: proportional"
        each.finish("b")
        each.add(10, 9.0)  # 1 + 0.8 nfe
    assert progress.expected(100) == progress.left == pytest.approx(81)
    assert 49 < limited.left <= 50
    assert str(progress) == "2 of 4, 0 s, about 81 s left"
    progress.add(20, 2.0)  # a slope below 0 is noise
    assert progress.expected(100) == pytest.approx(100 * 16 / 35)


def test_durations() -> None:
    """Durations have a unit that suits them."""
    texts = [duration(seconds) for seconds in (3.4, 119, 120, 7199, 9000)]
    assert texts == ["3 s", "119 s", "2 min", "120 min", "2.5 h"]
