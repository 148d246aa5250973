# SPDX-License-Identifier: Apache-2.0
"""torch-fidelity when it is not installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest

from scoresde_fast.evaluation.torch_fidelity import load_torch_fidelity


@pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")
def test_torch_fidelity_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the library is missing, the message says how to install it."""
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match="needs torch-fidelity, which is not installed: pip install torch-fidelity"):
        load_torch_fidelity.__wrapped__()
