# SPDX-License-Identifier: Apache-2.0
"""Time grids: their ends, given edges and spacing."""

from __future__ import annotations

from typing import get_args, get_type_hints

import numpy as np
import pytest

from scoresde_fast.configs.schema import SamplingConfig
from scoresde_fast.solvers import GRIDS, make_grid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule
from tests.support.toy_solvers import SDE_OF


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", SDE_OF)
def test_grids_end_at_eps(name: str, grid: str) -> None:
    """Grids of the fast solvers descend from the start exactly to eps and pass through the given times."""
    sde = SDE_OF[name]
    whole = make_grid(grid, sde, 12, 0.01, through=(0.3, 0.05), published=False).edges
    assert len(whole) == 13 and (whole[0], whole[-1]) == pytest.approx((1.0, 0.01), rel=1e-12)
    assert {0.3, 0.05} <= set(whole) and (np.diff(whole) < 0).all()
    part = make_grid(grid, sde, 5, 0.2, start=0.6, published=False).edges
    assert len(part) == 6 and (np.diff(part) < 0).all()
    assert (part[0], part[-1]) == pytest.approx((0.6, 0.2), rel=1e-12)


def test_configurations_accept_every_grid() -> None:
    """The type of the option "sampling.grid" lists `GRIDS`."""
    assert get_args(get_type_hints(SamplingConfig)["grid"]) == tuple(GRIDS)


@pytest.mark.parametrize("name", SDE_OF)
def test_logsnr_grid_is_even(name: str) -> None:
    """Steps have equal lengths in log(scale / std)."""
    widths = NoiseSchedule.at(SDE_OF[name], make_grid("logsnr", SDE_OF[name], 20, 1e-3).edges).h
    assert widths == pytest.approx(np.full(20, widths.mean()), rel=1e-9)
