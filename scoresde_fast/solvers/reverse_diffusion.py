# SPDX-License-Identifier: Apache-2.0
"""The reverse diffusion sampler: each step undoes one step of the forward discretisation."""

from __future__ import annotations

from scoresde_fast.sdes import VESDE, VPSDE, ScalarSDE, SubVPSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row


@solver(
    "reverse_diffusion",
    sdes=(VESDE, VPSDE, SubVPSDE),
    probability_flow=True,
    source="Song et al. 2021, appendix E",
    published=True,
    correctable=True,
)
def reverse_diffusion(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """x <- x - f_i x + G_i^2 score + G_i z for the forward step x + f_i x + G_i z.

    The probability flow takes half the score and no noise.
    """
    drift, diffusion = grid.discretise(sde)
    gain = (0.5 if probability_flow else 1.0) * diffusion**2
    columns = zip(grid.times, 1 - drift, gain, diffusion * (not probability_flow), strict=True)
    return [Row(t, state=x, outputs=(score,), noise=noise) for t, x, score, noise in columns]
