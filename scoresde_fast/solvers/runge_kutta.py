# SPDX-License-Identifier: Apache-2.0
"""Explicit Runge-Kutta methods for x / scale in s, on the probability flow d(x / scale) = e ds."""

from __future__ import annotations

from typing import NamedTuple

from scoresde_fast.sdes import ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, posterior_mean
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row


class Tableau(NamedTuple):
    """A Butcher tableau: the places of the stages in the step, and the weights of the slopes before each of them.

    Attributes:
        places: (stages,) fractions of the step, the first of which is 0.
        weights: for each stage after the first, and last for the end of the step, the weights of the slopes so far.
    """

    places: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]


TABLEAUS = {
    2: Tableau((0, 1), ((1,), (1 / 2, 1 / 2))),
    3: Tableau((0, 1 / 2, 1), ((1 / 2,), (-1, 2), (1 / 6, 2 / 3, 1 / 6))),
    4: Tableau((0, 1 / 2, 1 / 2, 1), ((1 / 2,), (0, 1 / 2), (0, 0, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6))),
}
"""Heun's method, Kutta's method and the classical Runge-Kutta method, by their order."""


@solver(
    "deis_rk",
    grid="karras",
    source="Zhang & Chen 2022 (DEIS), rho RK",
    deterministic=True,
    orders=(2, 3, 4),
    evaluations=(2, 3, 4),
    finish=posterior_mean,
)
def deis_rk(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, order: int = 3) -> list[AnyRow]:
    """Each stage is x' / scale' = x / scale + (s_end - s) sum_j w_j e_j, with the weights of `TABLEAUS`."""
    places, weights = TABLEAUS[order]
    start = NoiseSchedule.at(sde, grid.times)
    end = NoiseSchedule.at(sde, grid.edges[1:])
    stages = [start.towards(end, place) for place in places]
    derive = [stage.noise_predictions() for stage in stages]
    rows: list[AnyRow] = []
    for i in range(len(grid)):
        for j, (stage, following) in enumerate(zip(stages, [*stages[1:], end], strict=True)):
            decay = following.scale[i] / start.scale[i]
            # The sum of a stage's weights is its place, so this is exact for a constant e.
            width = (following.noise_to_signal[i] - start.noise_to_signal[i]) / sum(weights[j])
            outputs = tuple(following.scale[i] * width * weight for weight in reversed(weights[j]))
            carried = {"state": 0.0, "saved": decay} if j else {"state": decay, "save": True}
            rows.append(Row(stage.times[i], derive[j][i], outputs=outputs, **carried))
    return rows
