# SPDX-License-Identifier: Apache-2.0
"""docs/conditional.md: the code runs and keeps the known values, and the tables match the results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "conditional.md").read_text()


def test_code_runs() -> None:
    """The Python block runs unchanged and gives what the page says."""
    pytest.importorskip("sklearn")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {"__name__": "conditional"}
    exec(compile(code, "conditional.md", "exec"), names)
    images, filled = names["images"], names["filled"]
    assert torch.equal(filled[:, :, :8], images[:, :, :8].repeat_interleave(3, dim=0))
    assert (filled[:, :, 8:] - images[:, :, 8:].repeat_interleave(3, dim=0)).abs().mean() > 0.01
    torch.testing.assert_close(names["coloured"].mean(1, keepdim=True), names["gray"], rtol=0, atol=1e-6)
    assert names["coloured"].std(1).mean() > 0.02
    assert (torch.nn.functional.avg_pool2d(names["large"], 2) - names["small"]).abs().mean() < 0.005  # from clipping
    corner = names["corner"]
    torch.testing.assert_close(corner[:, :, :4], images[0, :, :4].expand(4, -1, -1, -1), rtol=0, atol=1e-6)
    torch.testing.assert_close(corner[..., :4], images[0, ..., :4].expand(4, -1, -1, -1), rtol=0, atol=1e-6)
