# SPDX-License-Identifier: Apache-2.0
"""Tests of the interleaved timers and the peak rates."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from scoresde_fast.bench import timing
from tests.support.bench_models import CEILINGS


def test_race() -> None:
    """Runs alternate in an order that rotates; each is read at least twice, except a long one, which is read once."""
    calls: list[str] = []
    runs: dict[str, Callable[[], None]] = {name: partial(calls.append, name) for name in "abc"}
    readings = timing.race(runs, torch.device("cpu"), 1.0, most=3)
    assert calls == [*"abc", *"bca", *"cab"] and [len(values) for values in readings.values()] == [3, 3, 3]
    runs["b"] = lambda: time.sleep(0.05)
    readings = timing.race(runs, torch.device("cpu"), 0.01)
    assert len(readings["a"]) >= 2 and len(readings["b"]) == 1


def test_interleaved() -> None:
    """After warm-up calls, functions are timed in an order that rotates; readings are not negative."""
    calls: list[str] = []
    runs: dict[str, Callable[[], None]] = {name: partial(calls.append, name) for name in "abc"}
    quartiles = timing.interleaved(runs, rounds=3, fill=0.0)
    assert calls == [*"aaabbbccc", *"abc", *"bca", *"cab"]
    assert all(0 <= lower <= median <= upper for lower, median, upper in quartiles.values())


def test_a_busy_machine_is_detected() -> None:
    """The highest rates count; a matmul peak that varies by more than 20 % indicates another process."""
    lower = CEILINGS | {"matmul_tflops": 0.07, "copy_gb_per_s": 12.0}
    unsteady = CEILINGS | {"copy_gb_per_s": 12.0, "readings": 2, "steady": False}
    assert timing.highest_rates([CEILINGS, lower]) == unsteady
    assert timing.highest_rates([CEILINGS, CEILINGS | {"matmul_tflops": 0.09}])["steady"]
