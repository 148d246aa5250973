# SPDX-License-Identifier: Apache-2.0
"""Images, progress and errors of CPU workers."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import scoresde_fast as sf
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.loop.workers import run_parts
from tests.support.tiny import ROUNDING


def test_workers_give_the_same_images(tiny: sf.ScoreModel) -> None:
    """A batch split over cores gives the images of the whole batch, in order, and reports each step once."""
    calls: list[tuple[int, int]] = []
    sampler = sf.Sampler(tiny, "pc", 3)
    torch.set_num_threads(2)
    try:
        split = sampler.sample(range(17), on_step=lambda *call: calls.append(call))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(split, sampler.sample(range(17)), rtol=0, atol=ROUNDING)
    assert calls == [(n, 6) for n in range(1, 7)]


def test_error_stops_all_workers() -> None:
    """An error in one worker is raised, and the other workers stop at their next step."""
    steps = [0, 0]

    def work(part: Sequence[int], on_step: OnStep | None) -> Tensor:
        assert on_step is not None
        for done in range(10_000):
            if part[0] == 0 and done == 3:
                raise ValueError("worker 0 failed")
            steps[part[0]] = done
            on_step(done, 10_000)
            time.sleep(0.001)
        return torch.zeros(1)

    with pytest.raises(ValueError, match="worker 0 failed"):
        run_parts(work, [[0], [1]], 2, None)
    assert steps[1] < 5_000
