# SPDX-License-Identifier: Apache-2.0
"""What ``scoresde-fast env`` reports."""

from __future__ import annotations

import json

from scoresde_fast import _extension
from scoresde_fast.environment import environment


def test_backends_say_why_they_are_absent() -> None:
    """Each operation lists its reference as present, and an absent backend with its reason."""
    normal = environment().backends["normal"]
    assert normal == {"reference": "present", "cpu": _extension.why_missing or "present"}


def test_report_is_json_and_text() -> None:
    """The same facts as a dict that JSON takes and as lines to paste into a bug report."""
    report = environment()
    assert json.loads(json.dumps(report.as_dict())) == report.as_dict()
    assert report.versions["torch"] in str(report)
    assert "backends of normal" in str(report)
