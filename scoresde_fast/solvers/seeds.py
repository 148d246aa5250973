# SPDX-License-Identifier: Apache-2.0
"""SEEDS (Gonzalez et al. 2023): singlestep exponential solvers of the reverse SDE.

A step of SEEDS-2 and SEEDS-3 has stages inside the step.  Each stage and the end of the step are integrated from the
start of the step, with a noise that contains that of the stages before: all follow one path of the Brownian motion.
The noise of a stage, carried on by the linear part of the equation, is thus the first part of the noise of the next.
So a row goes on from the state of the previous stage, replaces its prediction and adds the noise of its own part only.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, posterior_mean
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row

PLACES = {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}
"""Fractions of the step, in l, at which the stages after the first are, by order."""


@solver(
    "seeds",
    source="Gonzalez et al. 2023 (SEEDS)",
    orders=(1, 2, 3),
    evaluations=(1, 2, 3),
    weak_order=2,
    finish=posterior_mean,
)
def seeds(
    sde: ScalarSDE,
    grid: TimeGrid,
    *,
    probability_flow: bool,
    order: int = 2,
    eta: float = 1.0,
    prediction: Literal["data", "noise"] = "data",
) -> list[AnyRow]:
    """SEEDS-1, -2 and -3: the stages of `ddim`, `dpmpp_2s` and `dpmpp_3s`, which they equal without noise.

    The second stage of SEEDS-3 and its end use the line through the predictions at the start and the previous stage.
    """
    eta = 0.0 if probability_flow else eta
    edges, start = NoiseSchedule.at(sde, grid.edges), NoiseSchedule.at(sde, grid.times)
    stages = [start, *map(edges.inside_steps, PLACES[order]), NoiseSchedule.at(sde, grid.edges[1:])]
    derive = [each.data_predictions() if prediction == "data" else each.noise_predictions() for each in stages[:-1]]
    # From the start of the step to each stage: the factor of x, and the weights of the predictions so far.
    decays, weights = [np.ones(len(grid))], np.zeros((order + 1, order, len(grid)))
    for j, stage in enumerate(stages[1:], 1):
        decay, gain, slope = _mean(start, stage, eta, prediction)
        decays.append(decay)
        if order == j == 2:  # SEEDS-2 ends with the prediction at the middle alone
            weights[j, 1] = gain
        elif j == 1:
            weights[j, 0] = gain
        else:
            rise = slope / PLACES[order][j - 2] * (*PLACES[order], 1)[j - 1]
            weights[j, 0], weights[j, j - 1] = gain - rise, rise
    rows: list[AnyRow] = []
    noises = [_noise(*pair, eta, prediction) for pair in pairwise(stages)]
    carries = [after / before for before, after in pairwise(decays)]
    for i in range(len(grid)):
        for j in range(order):
            outputs = weights[j + 1, j::-1, i] - carries[j][i] * weights[j, j::-1, i]
            rows.append(Row(stages[j].times[i], derive[j][i], carries[j][i], 0.0, tuple(outputs), noises[j][i]))
    return rows


def _mean(start: NoiseSchedule, end: NoiseSchedule, eta: float, prediction: str) -> tuple[Array, Array, Array]:
    """Return coefficients (n,), up to ``end``, of x, of a constant prediction and of one that rises from 0 to 1."""
    h = end.half_log_snr - start.half_log_snr
    if prediction == "noise":
        ramp = start.noise_to_signal * -np.expm1(-h) / h
        gain = end.scale * (end.noise_to_signal - start.noise_to_signal)
        return end.scale / start.scale, (1 + eta**2) * gain, (1 + eta**2) * (end.std - end.scale * ramp)
    rate = 1 + eta**2
    gain = end.scale * -np.expm1(-rate * h)
    return end.std / start.std * np.exp(-(eta**2) * h), gain, end.scale - gain / (rate * h)


def _noise(start: NoiseSchedule, end: NoiseSchedule, eta: float, prediction: str) -> Array:
    """Return the standard deviation (n,) of the noise from ``start`` to ``end``."""
    h = end.half_log_snr - start.half_log_snr
    if prediction == "noise":
        return eta * end.std * np.sqrt(np.expm1(2 * h))
    return end.std * np.sqrt(-np.expm1(-2 * eta**2 * h))
