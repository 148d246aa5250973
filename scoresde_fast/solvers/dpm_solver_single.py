# SPDX-License-Identifier: Apache-2.0
"""DPM-Solver++, single-step: exponential Runge-Kutta methods in data prediction (Lu et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_levels import IMAGE_SDES, Levels, posterior_mean
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row


@dataclass(frozen=True, eq=False)
class _Reach:
    """From each step's beginning to ``levels`` (n,) beyond it: the decay, and the gains of x0 and of its slope."""

    start: Levels
    levels: Levels

    @property
    def width(self) -> Array:
        return self.levels.half_log_snr - self.start.half_log_snr[:-1]

    @property
    def decay(self) -> Array:
        return self.levels.std / self.start.std[:-1]

    @property
    def gain(self) -> Array:
        """scale' (1 - e^-w)."""
        return self.levels.scale * -np.expm1(-self.width)

    @property
    def slope(self) -> Array:
        """scale' (1 - (1 - e^-w) / w): of x0 that grows from 0 to 1 over the reach."""
        return self.levels.scale - self.gain / self.width


@solver(
    "dpmpp_2s",
    sdes=IMAGE_SDES,
    probability_flow=True,
    deterministic=True,
    orders=(2,),
    evaluations=2,
    source="Lu et al. 2022 (DPM-Solver++), algorithm 1",
    finish=posterior_mean,
)
def dpmpp_2s(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """A first-order step to the middle, then the whole step with the data prediction that is there."""
    edges = Levels.at(sde, grid.edges)
    middle = edges.inside(1 / 2)
    half, whole = _Reach(edges, middle), _Reach(edges, Levels.at(sde, grid.edges[1:]))
    derive, derive_middle = edges.data_predictions(), middle.data_predictions()
    rows: list[AnyRow] = []
    for i in range(len(grid)):
        rows.append(Row(edges.times[i], derive[i], half.decay[i], outputs=(half.gain[i],), save=True))
        rows.append(Row(middle.times[i], derive_middle[i], 0.0, saved=whole.decay[i], outputs=(whole.gain[i],)))
    return rows


@solver(
    "dpmpp_3s",
    sdes=IMAGE_SDES,
    probability_flow=True,
    deterministic=True,
    orders=(3,),
    evaluations=3,
    source="Lu et al. 2022 (DPM-Solver), algorithm 2, in data prediction",
    finish=posterior_mean,
)
def dpmpp_3s(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """Stages after one and two thirds of the step, each with the slope from the beginning to the stage before."""
    edges = Levels.at(sde, grid.edges)
    first, second = edges.inside(1 / 3), edges.inside(2 / 3)
    one, two, three = (_Reach(edges, levels) for levels in (first, second, Levels.at(sde, grid.edges[1:])))
    # The slope over a reach is so many times the difference to the stage before.
    slope_two, slope_three = two.slope * 2, three.slope * 1.5
    derive, derive_first, derive_second = (levels.data_predictions() for levels in (edges, first, second))
    rows: list[AnyRow] = []
    for i in range(len(grid)):
        rows.append(Row(edges.times[i], derive[i], one.decay[i], outputs=(one.gain[i],), save=True))
        stage = (slope_two[i], two.gain[i] - slope_two[i])
        rows.append(Row(first.times[i], derive_first[i], 0.0, saved=two.decay[i], outputs=stage))
        end = (slope_three[i], 0.0, three.gain[i] - slope_three[i])
        rows.append(Row(second.times[i], derive_second[i], 0.0, saved=three.decay[i], outputs=end))
    return rows
