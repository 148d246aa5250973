# SPDX-License-Identifier: Apache-2.0
"""Devices: the precisions that each has."""

from __future__ import annotations

import pytest
import torch

from scoresde_fast.devices import choose_precision


def test_precision_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" is bf16 where a GPU has it; an older one is told what it lacks."""
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert choose_precision("auto", gpu) == "bf16" and choose_precision("tf32", gpu) == "tf32"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose_precision("auto", gpu) == "fp32" and choose_precision("fp16", gpu) == "fp16"
    with pytest.raises(ValueError, match=r"'bf16' needs a GPU of compute capability 8\.0, and cuda has 7\.5"):
        choose_precision("bf16", gpu)
