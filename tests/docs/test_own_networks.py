# SPDX-License-Identifier: Apache-2.0
"""docs/own-networks.md: the code runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.diffusers_models import diffusers

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "own-networks.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.same_everywhere
@pytest.mark.parametrize("code", BLOCKS, ids=[f"block-{n}" for n in range(1, len(BLOCKS) + 1)])
def test_python_blocks_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block runs and samples images in [0, 1]."""
    if "from diffusers" in code:
        diffusers()
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, "own-networks.md", "exec"), names)
    if "images" in names:
        assert ((names["images"] >= 0) & (names["images"] <= 1)).all()
