# SPDX-License-Identifier: Apache-2.0
"""Training of digits-features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("sklearn")

from scoresde_fast.networks import FeatureNet
from scoresde_fast.training import features


def test_feature_training_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs suffice to classify half of the digits, and the same seed gives the same half-precision weights."""
    monkeypatch.setattr(features, "EPOCHS", 2)
    record = features.train_features(tmp_path / "first", seed=1)
    assert record["seed"] == 1 and len(record["loss"]) == 2 and record["loss"][1] < record["loss"][0]
    assert record["held_out_accuracy"] > 0.5
    features.train_features(tmp_path / "again", seed=1)
    first, again = (load_file(tmp_path / run / "features.safetensors") for run in ("first", "again"))
    for name, tensor in FeatureNet().state_dict().items():
        assert first[name].shape == tensor.shape and first[name].dtype == torch.float16
        assert torch.equal(first[name], again[name])
