# SPDX-License-Identifier: Apache-2.0
"""DPM-Solver++(2M) compared with the paper, and its SDE form without noise."""

from __future__ import annotations

import numpy as np
import pytest

from scoresde_fast.solvers import StepTable
from tests.support.toy_solvers import SDE_OF, STEPS, Mixture, X, data_prediction, rows_of, schedule_of


@pytest.mark.parametrize("name", SDE_OF)
def test_dpmpp_2m_is_as_published(name: str) -> None:
    """Algorithm 2 of Lu et al., with their r and D, gives the same result for points of a mixture."""
    sde = SDE_OF[name]
    schedule, x = schedule_of(sde), sde.prior_std * X
    a, s, h = schedule.scale, schedule.std, schedule.h
    end = Mixture().run(sde, StepTable.of(rows_of(sde, "dpmpp_2m")), x)
    previous = None
    for i in range(STEPS):
        newest = data_prediction(sde, schedule, i, x)
        r = h[i - 1] / h[i] if i else np.inf
        d = newest if previous is None else (1 + 1 / (2 * r)) * newest - 1 / (2 * r) * previous
        x, previous = s[i + 1] / s[i] * x - a[i + 1] * (np.exp(-h[i]) - 1) * d, newest
    assert np.allclose(end, x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SDE_OF)
def test_the_flow_of_the_sde_variant_is_dpmpp_2m(name: str) -> None:
    """``probability_flow=True`` and ``eta=0`` give the table of the deterministic solver."""
    wanted = rows_of(SDE_OF[name], "dpmpp_2m")
    assert rows_of(SDE_OF[name], "dpmpp_2m_sde", probability_flow=True) == wanted
    assert rows_of(SDE_OF[name], "dpmpp_2m_sde", eta=0.0) == wanted
