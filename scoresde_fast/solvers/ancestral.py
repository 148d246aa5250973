# SPDX-License-Identifier: Apache-2.0
"""Ancestral sampling: the reverse Markov chains of SMLD (VE) and DDPM (VP)."""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import VESDE, VPSDE, ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row


@solver(
    "ancestral",
    sdes=(VESDE, VPSDE),
    probability_flow=False,
    source="Song et al. 2021, appendix F; Ho et al. 2020, algorithm 2",
    aliases=("ancestral_sampling",),
    published=True,
    correctable=True,
)
def ancestral(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """VE: x + G^2 score, the noise of the posterior; VP: (x + beta score) / sqrt(1 - beta) + sqrt(beta) z.

    G^2 is the difference of the squared noise levels of the step, beta its share of the variance.  The VP noise is
    sqrt(beta) as published, not the posterior's deviation.
    """
    drift, diffusion = grid.discretise(sde)
    if isinstance(sde, VESDE):
        above = sde.sigma(grid.table_times(sde)) ** 2
        below = np.maximum(above - diffusion**2, 0.0)
        x, score, noise = np.ones_like(drift), diffusion**2, diffusion * np.sqrt(below / above)
    else:
        keep = 1 + drift  # sqrt(1 - beta)
        x, score, noise = 1 / keep, diffusion**2 / keep, diffusion
    columns = zip(grid.times, x, score, noise, strict=True)
    return [Row(t, state=a, outputs=(b,), noise=c) for t, a, b, c in columns]
