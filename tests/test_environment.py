# SPDX-License-Identifier: Apache-2.0
"""What ``scoresde-fast env`` reports."""

from __future__ import annotations

import json

import torch

from scoresde_fast import _extension
from scoresde_fast.environment import environment


def test_backends_say_why_they_are_absent() -> None:
    """Every operation lists its reference as present, and an absent backend with its reason in words."""
    backends = environment().backends
    assert set(backends["normal"]) == {"reference", "cuda", "triton", "cpu"}
    assert backends["normal"]["cpu"] == (_extension.why_missing or "present")
    assert set(backends["group_norm_attention"]) == {"reference", "triton"}
    for operation, found in backends.items():
        assert found["reference"] == "present"
        assert all(state == "present" or len(state.split()) > 3 for state in found.values()), operation
    if not torch.cuda.is_available() and _extension.why_missing is None:
        assert "present" in backends["normal"]["cuda"] or "built without CUDA" in backends["normal"]["cuda"]


def test_report_is_json_and_text() -> None:
    """The same facts as a dict that JSON takes and as lines to paste into a bug report."""
    report = environment()
    assert json.loads(json.dumps(report.as_dict())) == report.as_dict()
    assert report.versions["torch"] in str(report)
    assert "backends of normal" in str(report)
