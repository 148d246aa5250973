# SPDX-License-Identifier: Apache-2.0
"""The report of ``scoresde-fast env``."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from scoresde_fast import _extension
from scoresde_fast.environment import environment

pytestmark = pytest.mark.same_everywhere


def test_reasons_for_unavailable_backends() -> None:
    """Each operation lists its available backends, the reference last; the text has each reason for absence once."""
    report = environment()
    assert set(report.backends["normal"]) | set(report.unavailable) >= {"cuda", "triton", "cpu"}
    assert torch.cuda.is_available() or "cuda" not in report.backends["normal"]
    assert set(report.backends["group_norm_attention"]) <= {"triton", "reference"}
    assert all(backends[-1] == "reference" for backends in report.backends.values())
    assert ("cpu" in report.backends["normal"]) == (_extension.why_missing is None)
    for name, reasons in report.unavailable.items():
        assert len(set(reasons)) == len(reasons), name
        for reason in reasons:
            assert len(reason.split()) > 3
            assert str(report).count(reason) == 1


def test_report_is_json_and_text() -> None:
    """The report is available as JSON values and as text."""
    report = environment()
    assert json.loads(json.dumps(asdict(report))) == asdict(report)
    assert report.versions["torch"] in str(report)
    assert "backends of each operation" in str(report)
