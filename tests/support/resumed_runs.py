# SPDX-License-Identifier: Apache-2.0
"""Training runs that are stopped and resumed, for every kind of trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from scoresde_fast.training.resumable import ResumableRun


def finish(run: ResumableRun) -> list[float]:
    """Train to the end and return the losses."""
    return [loss for _, loss in run.run()]


def assert_resumes_exactly(make: Callable[[Path], ResumableRun], folder: Path, snapshot: int) -> None:
    """Assert that a run that stops two steps after ``snapshot`` and resumes equals an uninterrupted one."""
    whole = make(folder / "whole")
    losses = finish(whole)
    for step, _ in make(folder / "parts").run():
        if step == snapshot + 2:
            break
    resumed = make(folder / "parts")
    assert resumed.step == snapshot
    assert finish(resumed) == losses[snapshot:]
    assert_same(resumed, whole)


def assert_same(run: ResumableRun, other: ResumableRun) -> None:
    """Assert that two runs have the same step, curve, weights and averages, bit for bit."""
    assert (run.step, run.curve, run.since_log) == (other.step, other.curve, other.since_log)
    for name, weight in other.network.state_dict().items():
        assert torch.equal(weight, run.network.state_dict()[name]), name
    assert all(torch.equal(a, b) for a, b in zip(run.ema.shadow, other.ema.shadow, strict=True))
