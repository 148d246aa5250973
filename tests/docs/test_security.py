# SPDX-License-Identifier: Apache-2.0
"""SECURITY.md: its limits are those of the code, and it says how to report."""

from __future__ import annotations

from pathlib import Path

import pytest

from scoresde_fast.checkpoints import pickles
from scoresde_fast.configs import text_files, weights

pytestmark = pytest.mark.same_everywhere


def test_limits_are_those_of_the_code(root: Path) -> None:
    """Every limit in the table of trust is the constant that the code checks."""
    page = (root / "SECURITY.md").read_text()

    def spaced(number: int) -> str:
        return f"{number:,}".replace(",", " ")

    pickle = f"at most {pickles.MAX_BYTES // 10**6} MB, {spaced(pickles.MAX_OPCODES)} opcodes, "
    assert f"{pickle}{spaced(pickles.MAX_OBJECTS)} objects, {pickles.MAX_DEPTH} levels" in page
    assert f"at most {text_files.MAX_BYTES // 10**6} MB and {text_files.MAX_DEPTH} levels" in page
    assert page.count(f"{spaced(weights.MAX_WEIGHTS)} weights") == 2


def test_pages_lead_to_it(root: Path) -> None:
    """The page on models links the file, and the file names the form for reports."""
    assert "](../SECURITY.md)" in (root / "docs" / "models.md").read_text()
    assert "/security/advisories/new" in (root / "SECURITY.md").read_text()
