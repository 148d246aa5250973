# SPDX-License-Identifier: Apache-2.0
"""The embedded extractor's input, and torch-fidelity when it is missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest
import torch

from scoresde_fast.evaluation import extract_features
from scoresde_fast.evaluation import fidelity as fidelity_module


def test_features_refuse_other_shapes() -> None:
    """Images of another size are refused, and both shapes are named."""
    with pytest.raises(ValueError, match=r"\(3, 32, 32\); digits-features takes \(3, 16, 16\)"):
        extract_features(torch.rand(2, 3, 32, 32))


@pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")
def test_torch_fidelity_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the library is missing, the message says how to install it."""
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match="needs torch-fidelity, which is not installed: pip install torch-fidelity"):
        fidelity_module.torch_fidelity.__wrapped__()
