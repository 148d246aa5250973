# SPDX-License-Identifier: Apache-2.0
"""The moving average and the learning rate of training runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scoresde_fast.configs import Config
from scoresde_fast.training.resumable import EMA, learning_rate


def test_ema_warms_up() -> None:
    """The decay of the n-th update is (1 + n) / (10 + n), but at most the configured decay."""
    weight = nn.Parameter(torch.tensor([0.0]))
    ema = EMA([weight], decay=0.25)
    with torch.no_grad():
        weight.fill_(1.0)
    expected = 0.0
    for n in range(1, 6):
        ema.update()
        decay = min(0.25, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay)
        assert ema.shadow[0].item() == pytest.approx(expected, rel=1e-6)
    ema.swap()
    assert weight.item() == pytest.approx(expected) and ema.shadow[0].item() == 1.0


def test_learning_rate_rises_and_falls() -> None:
    """The rate rises linearly over the warm-up and falls linearly at the end; without both it is constant."""
    sections = {"model": {"name": "ncsnpp"}, "training": {"sde": "vesde", "n_iters": 9}}
    rising = Config.from_dict({**sections, "optim": {"lr": 1.0, "warmup": 4, "decay": 2}})
    assert [learning_rate(rising, step) for step in range(9)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 0.5]
    flat = Config.from_dict({**sections, "optim": {"lr": 1.0, "warmup": 0}})
    assert {learning_rate(flat, step) for step in range(9)} == {1.0}
