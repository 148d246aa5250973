# SPDX-License-Identifier: Apache-2.0
"""The input of the embedded extractor."""

from __future__ import annotations

import pytest
import torch

from scoresde_fast.evaluation import extract_features


def test_features_refuse_other_shapes() -> None:
    """Images of another size are refused, and both shapes are named."""
    with pytest.raises(ValueError, match=r"\(3, 32, 32\); digits-features takes \(3, 16, 16\)"):
        extract_features(torch.rand(2, 3, 32, 32))
