# SPDX-License-Identifier: Apache-2.0
"""What a run of pytest found, read from its JUnit report."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any


def counts(report: Path) -> dict[str, Any]:
    """``passed``, ``failed`` and ``skipped`` tests, and ``failures``, the names of those that failed."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    failures = sorted(
        f"{case.get('classname', '').removeprefix('tests.')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    )
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(failures) - skipped
    return {"passed": passed, "failed": len(failures), "skipped": skipped, "failures": failures}
