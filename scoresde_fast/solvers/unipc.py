# SPDX-License-Identifier: Apache-2.0
"""UniPC: a predictor and a corrector that costs no evaluation of its own (Zhao et al. 2023)."""

from __future__ import annotations

from scoresde_fast.sdes import ScalarSDE
from scoresde_fast.solvers.exponential import Adams
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_levels import IMAGE_SDES, posterior_mean
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow


@solver(
    "unipc",
    sdes=IMAGE_SDES,
    probability_flow=True,
    deterministic=True,
    orders=(1, 2, 3),
    corrected=True,
    source="Zhao et al. 2023 (UniPC), B(h) = e^h - 1",
    finish=posterior_mean,
)
def unipc(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, order: int = 2) -> list[AnyRow]:
    """UniPC-p in data prediction; nothing corrects the last state, whose evaluation is the denoising's."""
    return Adams(order, corrector=True, midpoint=True).rows(sde, grid)
