# SPDX-License-Identifier: Apache-2.0
"""PNDM (Liu et al. 2022): classical methods of order 4 for e, each followed by a step of DDIM."""

from __future__ import annotations

from scoresde_fast.sdes import ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, posterior_mean
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row

RUNGE_KUTTA_STEPS = 3
"""Number of steps until the multistep method has its four values of e."""
RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
ADAMS_BASHFORTH = (55 / 24, -59 / 24, 37 / 24, -9 / 24)
"""Weights of e, newest first, of the classical methods for steps of equal length."""


@solver(
    "pndm",
    grid="karras",
    source="Liu et al. 2022 (PNDM), algorithm 2",
    deterministic=True,
    orders=(2,),
    starting_evaluations=3 * RUNGE_KUTTA_STEPS,
    finish=posterior_mean,
)
def pndm(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """Three steps of the pseudo Runge-Kutta method, whose stages are at the middle in t, then the linear multistep one.

    Each step and stage is one of DDIM from the start of the step.  The multistep method uses the e at the starts of
    steps only, so the other three of each Runge-Kutta step are forgotten.
    """
    edges = NoiseSchedule.at(sde, grid.edges)
    middles = NoiseSchedule.at(sde, (grid.edges[:-1] + grid.edges[1:]) / 2)
    e, e_middle = edges.noise_predictions(), middles.noise_predictions()
    rows: list[AnyRow] = []
    for i in range(len(grid)):
        decay = edges.scale[i + 1] / edges.scale[i]
        width = edges.scale[i + 1] * (edges.noise_to_signal[i + 1] - edges.noise_to_signal[i])
        if i >= RUNGE_KUTTA_STEPS:
            rows.append(Row(edges.times[i], e[i], decay, outputs=tuple(width * w for w in ADAMS_BASHFORTH)))
            continue
        half_decay = middles.scale[i] / edges.scale[i]
        half_width = middles.scale[i] * (middles.noise_to_signal[i] - edges.noise_to_signal[i])
        whole = tuple(width * w for w in RUNGE_KUTTA)
        rows += [
            Row(edges.times[i], e[i], half_decay, outputs=(half_width,), save=True),
            Row(middles.times[i], e_middle[i], 0.0, half_decay, (half_width,)),
            Row(middles.times[i], e_middle[i], 0.0, decay, (width,)),
            Row(edges.times[i + 1], e[i + 1], 0.0, decay, whole, forget=3),
        ]
    return rows
