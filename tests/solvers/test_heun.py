# SPDX-License-Identifier: Apache-2.0
"""The churn of Heun's method."""

from __future__ import annotations

import numpy as np
import pytest

from scoresde_fast.sdes import VESDE
from scoresde_fast.solvers import SolverOptions, build_table


def test_churn_is_limited() -> None:
    """The noise grows by churn / steps before a step, by at most sqrt(2) - 1, and never beyond T."""
    sde = VESDE()
    for churn, growth in ((1.0, 0.1), (1e6, np.sqrt(2) - 1)):
        rows = build_table(sde, SolverOptions("heun", 10, grid="karras", churn=churn)).rows
        jumps = [(row.t, rows[i + 1].t) for i, row in enumerate(rows) if row.derive is None]
        before, after = (sde.sigma(np.array(times)) for times in zip(*jumps, strict=True))
        assert after == pytest.approx(np.minimum(before * (1 + growth), sde.sigma_max), rel=1e-9)
        assert len(jumps) == 8  # of nine steps the first begins at T
    assert not any(row.has_noise for row in build_table(sde, SolverOptions("heun", 10, churn=0.0)).rows)
