# SPDX-License-Identifier: Apache-2.0
"""The churn of Heun's method."""

from __future__ import annotations

import numpy as np
import pytest

from scoresde_fast.sdes import VESDE
from scoresde_fast.solvers import SolverOptions, build_table


def test_churn_is_limited() -> None:
    """Before a step the noise grows by the fraction churn / steps, at most by sqrt(2) - 1 and at most to T."""
    sde = VESDE()
    for churn, growth in ((1.0, 0.1), (1e6, np.sqrt(2) - 1)):
        rows = build_table(sde, SolverOptions("heun", 10, grid="karras", churn=churn)).rows
        jumps = [(row.t, rows[i + 1].t) for i, row in enumerate(rows) if row.derive is None]
        before, after = (sde.sigma(np.array(times)) for times in zip(*jumps, strict=True))
        assert after == pytest.approx(np.minimum(before * (1 + growth), sde.sigma_max), rel=1e-9)
        assert len(jumps) == 8  # the first of nine steps starts at T
    assert not any(row.has_noise for row in build_table(sde, SolverOptions("heun", 10, churn=0.0)).rows)
