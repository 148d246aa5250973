# SPDX-License-Identifier: Apache-2.0
"""The recogniser: accurate on real digits, and not fooled by noise and wrong tints."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("sklearn")

from scoresde_fast.data import digits
from scoresde_fast.evaluation import Recogniser


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser()


def test_real_digits(recogniser: Recogniser) -> None:
    """Held-out digits: at least 97 % correct, nearly all confident, with the tint of their class."""
    accuracy, report = recogniser.held_out()
    assert accuracy >= 0.97 and report.recognised >= 0.98 and report.tint_matches >= 0.97
    assert sum(report.class_shares) == pytest.approx(1) and min(report.class_shares) > 0.08


def test_noise_and_wrong_tints(recogniser: Recogniser) -> None:
    """Digits with rotated channels are recognised without a matching tint; most noise images fall into one class."""
    images = digits("test")[0] / 255
    rotated = recogniser.report(images.roll(1, dims=1))
    assert rotated.recognised >= 0.98 and rotated.tint_matches < 0.2
    noise = recogniser.report(torch.rand(images.shape, generator=torch.Generator().manual_seed(0)))
    assert noise.tint_matches < 0.5 and max(noise.class_shares) > 0.5
