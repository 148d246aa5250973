# SPDX-License-Identifier: Apache-2.0
"""Multistep methods: DEIS, iPNDM, DPM-Solver(++ and -v3), UniPC, SA-Solver and TrigFlow's, one evaluation per step.

The solutions of `exact_steps` contain the mean m of a prediction over each step.  Multistep methods replace
the prediction by the polynomial through its last values: a predictor uses the values up to the start of the step, a
corrector also the value at its end.  Predictor and corrector have the same coefficient of x and the same
noise z, so the corrected state is the predicted one plus a combination of outputs.  The row of the next step adds this
combination, so that a step costs one evaluation.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers.adams import evaluation_points, gauss_legendre, lagrange, mean_weights
from scoresde_fast.solvers.exact_steps import (
    ExactSteps,
    in_data_prediction,
    in_empirical_prediction,
    in_noise_prediction,
    in_velocity_prediction,
)
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, posterior_mean, time_of
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.spacings import SIGMA_DATA
from scoresde_fast.solvers.table import AnyRow, Row
from scoresde_fast.solvers.weights import Weights

Prediction = Literal["data", "noise"]
Variable = Literal["t", "rho", "log_rho", "angle"]
"""The variable of the polynomial: the time, s, l = -log s, or TrigFlow's time."""
Line = Literal["exact", "midpoint", "bh1"]
"""The mean over a step of the polynomial through two values, a line in l: exact; its value at the middle; or
its value at the fraction h / (2 |exp(-rate h) - 1|) of the step, with the exponent ``rate`` of the weight."""

_LINES: dict[str, Line] = {
    "midpoint": "midpoint",
    "heun": "exact",
    "bh1": "bh1",
    "bh2": "midpoint",
    "vary_coeff": "exact",
}
"""`Line` by the names that the options ``variant`` have in the papers."""

NOISE_STATISTICS = ((0.0, 0.0, -1.0),)
"""The statistics of a model whose noise prediction does not change."""


@solver("deis", source="Zhang & Chen 2022 (DEIS), tAB", deterministic=True, orders=(2, 3, 4), finish=posterior_mean)
def deis(
    sde: ScalarSDE,
    grid: TimeGrid,
    *,
    probability_flow: bool,
    order: int = 3,
    variable: Literal["t", "log_rho"] = "t",
    denoise: bool,
    lower_order_final: bool = False,
) -> list[AnyRow]:
    """The noise prediction is the polynomial in t, or with "log_rho" in l, through its last ``order`` values."""
    steps = in_noise_prediction(NoiseSchedule.at(sde, grid.edges))
    return _rows(steps, order, variable=variable, final=_final_order(lower_order_final, denoise))


@solver(
    "ipndm",
    grid="karras",
    source="Liu et al. 2022 (PNDM); Zhang & Chen 2022 (DEIS), rho AB",
    deterministic=True,
    orders=(2, 3, 4),
    finish=posterior_mean,
)
def ipndm(
    sde: ScalarSDE,
    grid: TimeGrid,
    *,
    probability_flow: bool,
    denoise: bool,
    order: int = 3,
    lower_order_final: bool = False,
) -> list[AnyRow]:
    """As `deis`, with a polynomial in s: Adams-Bashforth for steps of any length."""
    steps = in_noise_prediction(NoiseSchedule.at(sde, grid.edges))
    return _rows(steps, order, variable="rho", final=_final_order(lower_order_final, denoise))


@solver("dpm_2m", source="Lu et al. 2022 (DPM-Solver)", deterministic=True, orders=(2,), finish=posterior_mean)
def dpm_2m(
    sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, denoise: bool, lower_order_final: bool = False
) -> list[AnyRow]:
    """`dpmpp_2m` in noise prediction."""
    steps = in_noise_prediction(NoiseSchedule.at(sde, grid.edges))
    return _rows(steps, 2, line="midpoint", final=_final_order(lower_order_final, denoise))


@solver(
    "dpmpp_2m",
    source="Lu et al. 2022 (DPM-Solver++), algorithm 2",
    deterministic=True,
    orders=(2,),
    finish=posterior_mean,
)
def dpmpp_2m(
    sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, denoise: bool, lower_order_final: bool = False
) -> list[AnyRow]:
    """m is the straight line through the last two x0, at the middle of the step."""
    steps = in_data_prediction(NoiseSchedule.at(sde, grid.edges))
    return _rows(steps, 2, line="midpoint", final=_final_order(lower_order_final, denoise))


@solver("dpmpp_3m", source="Lu et al. 2022 (DPM-Solver++)", deterministic=True, orders=(3,), finish=posterior_mean)
def dpmpp_3m(
    sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, denoise: bool, lower_order_final: bool = False
) -> list[AnyRow]:
    """m is the mean of the parabola through the last three x0; the second step is one of `dpmpp_2m`."""
    steps = in_data_prediction(NoiseSchedule.at(sde, grid.edges))
    return _rows(steps, 3, line="midpoint", final=_final_order(lower_order_final, denoise))


@solver(
    "dpmpp_2m_sde", source="Lu et al. 2022 (DPM-Solver++), SDE-DPM-Solver++(2M)", orders=(2,), finish=posterior_mean
)
def dpmpp_2m_sde(
    sde: ScalarSDE,
    grid: TimeGrid,
    *,
    probability_flow: bool,
    eta: float = 1.0,
    variant: Literal["midpoint", "heun"] = "midpoint",
    denoise: bool,
    lower_order_final: bool = False,
) -> list[AnyRow]:
    """`dpmpp_2m` on the reverse SDE with ``eta`` times the noise."""
    steps = in_data_prediction(NoiseSchedule.at(sde, grid.edges), 0.0 if probability_flow else eta)
    return _rows(steps, 2, line=_LINES[variant], final=_final_order(lower_order_final, denoise))


@solver(
    "dpmpp_3m_sde",
    source="Lu et al. 2022 (DPM-Solver++), SDE-DPM-Solver++, third order",
    orders=(3,),
    weak_order=2,
    finish=posterior_mean,
)
def dpmpp_3m_sde(
    sde: ScalarSDE,
    grid: TimeGrid,
    *,
    probability_flow: bool,
    eta: float = 1.0,
    denoise: bool,
    lower_order_final: bool = False,
) -> list[AnyRow]:
    """`dpmpp_3m` on the reverse SDE with ``eta`` times the noise; the second step takes the exact mean of its line."""
    steps = in_data_prediction(NoiseSchedule.at(sde, grid.edges), 0.0 if probability_flow else eta)
    return _rows(steps, 3, final=_final_order(lower_order_final, denoise))


@solver(
    "unipc",
    source="Zhao et al. 2023 (UniPC)",
    deterministic=True,
    orders=(1, 2, 3),
    corrected=True,
    finish=posterior_mean,
)
def unipc(
    sde: ScalarSDE,
    grid: TimeGrid,
    *,
    probability_flow: bool,
    order: int = 2,
    variant: Literal["bh1", "bh2", "vary_coeff"] = "bh2",
    prediction: Prediction = "data",
    denoise: bool,
    lower_order_final: bool = False,
) -> list[AnyRow]:
    """UniPC-p with B(h) = h ("bh1"), e^h - 1 ("bh2") or exact means; the last state is not corrected."""
    schedule, final = NoiseSchedule.at(sde, grid.edges), _final_order(lower_order_final, denoise)
    steps = in_data_prediction(schedule) if prediction == "data" else in_noise_prediction(schedule)
    return _rows(steps, order, corrector=True, line=_LINES[variant], final=final)


@solver(
    "sa",
    aliases=("sa_solver",),
    source="Xue et al. 2023 (SA-Solver)",
    orders=(1, 2, 3),
    corrected=True,
    weak_order=2,
    finish=posterior_mean,
)
def sa(
    sde: ScalarSDE,
    grid: TimeGrid,
    *,
    probability_flow: bool,
    order: int = 2,
    eta: float = 1.0,
    denoise: bool,
    lower_order_final: bool = False,
) -> list[AnyRow]:
    """Stochastic Adams predictor and corrector with constant tau = ``eta``, and the same noise in both."""
    steps = in_data_prediction(NoiseSchedule.at(sde, grid.edges), 0.0 if probability_flow else eta)
    return _rows(steps, order, corrector=True, final=_final_order(lower_order_final, denoise))


@solver(
    "trigflow",
    grid="karras",
    source="Salimans & Ho 2022 (v-prediction); Lu & Song 2024 (TrigFlow)",
    deterministic=True,
    orders=(1, 2, 3),
    corrected=True,
    finish=posterior_mean,
)
def trigflow(
    sde: ScalarSDE,
    grid: TimeGrid,
    *,
    probability_flow: bool,
    order: int = 3,
    sigma_data: float = SIGMA_DATA,
    denoise: bool,
    lower_order_final: bool = False,
) -> list[AnyRow]:
    """Adams-Bashforth predictor and Adams-Moulton corrector for dy / d angle = v, where y = x / (scale r)."""
    steps = in_velocity_prediction(NoiseSchedule.at(sde, grid.edges), sigma_data)
    return _rows(steps, order, variable="angle", corrector=True, final=_final_order(lower_order_final, denoise))


@solver(
    "dpm_v3",
    source="Zheng et al. 2023 (DPM-Solver-v3)",
    deterministic=True,
    orders=(1, 2, 3),
    corrected=True,
    finish=posterior_mean,
)
def dpm_v3(
    sde: ScalarSDE,
    grid: TimeGrid,
    *,
    probability_flow: bool,
    order: int = 2,
    statistics: Weights = (),
    denoise: bool,
    lower_order_final: bool = False,
) -> list[AnyRow]:
    """Adams-Bashforth predictor and Adams-Moulton corrector in l for the prediction that changes least.

    Without statistics that is the noise prediction.

    Raises:
        ValueError: the statistics are not rows of three numbers with rising l.
    """
    rows = statistics or NOISE_STATISTICS
    if {len(row) for row in rows} != {3} or not (np.diff([row[0] for row in rows]) > 0).all():
        raise ValueError("statistics must have three numbers in each row, of which the first rises from row to row")
    steps = in_empirical_prediction(NoiseSchedule.at(sde, grid.edges), rows)
    return _rows(steps, order, corrector=True, final=_final_order(lower_order_final, denoise))


def _final_order(lower_order_final: bool, denoise: bool) -> int | None:
    """Return the order of the last step, before denoising, whose order is 1; None: it is that of the others."""
    return (2 if denoise else 1) if lower_order_final else None


def _rows(
    steps: ExactSteps,
    order: int,
    *,
    variable: Variable = "log_rho",
    corrector: bool = False,
    line: Line = "exact",
    final: int | None = None,
) -> list[AnyRow]:
    """Return one row per step of a multistep method; the first steps use the past values that exist.

    The predictor interpolates ``order`` values, the corrector one more; at the end fewer and fewer, if ``final`` is
    given: the number of the last step's predictor.
    """
    decay, gain = steps.decay, steps.gain[:, None]
    most = np.full(len(decay), order)
    if final is not None:
        most = np.minimum(most, final + np.arange(len(decay))[::-1])
    weights = partial(_weights, steps, variable=variable, line=line)
    outputs = gain * weights(most)
    if corrector:
        corrected = gain * weights(most + 1, ahead=True)
        predicted = np.pad(outputs, ((0, 0), (1, 0)))
        outputs = np.pad(outputs, ((0, 0), (0, 1)))
        outputs[1:] += decay[1:, None] * (corrected - predicted)[:-1]
    columns = zip(steps.schedule.times, steps.derive, decay, outputs, steps.noise, strict=False)
    return [Row(t, derive, x, outputs=tuple(y), noise=z) for t, derive, x, y, z in columns]


def _weights(steps: ExactSteps, most: Array, *, variable: Variable, line: Line, ahead: bool = False) -> Array:
    """Return the weights (n, p) of the predictions, newest first, in the mean m of each step.

    Step i interpolates ``most[i]`` values, the newest of which is at its start, or with ``ahead`` at its end.
    """
    schedule, edges = steps.schedule, steps.schedule.half_log_snr
    nodes, widths = gauss_legendre(edges)
    match variable:
        case "t":
            at_edges, at_nodes = schedule.times, time_of(schedule.sde, np.exp(-nodes), *schedule.times[[-1, 0]])
        case "rho":
            at_edges, at_nodes = np.exp(-edges), np.exp(-nodes)
        case "log_rho":
            at_edges, at_nodes = edges, nodes
        case "angle":
            at_edges, at_nodes = schedule.angle(steps.sigma_data), np.arctan(np.exp(-nodes) / steps.sigma_data)
    points = evaluation_points(at_edges, most.max(), ahead=ahead)
    points[np.arange(points.shape[1]) >= most[:, None]] = np.nan
    density = widths * np.exp(steps.log_weight(nodes) - steps.log_weight(edges[1:, None]))
    means = mean_weights(points, at_nodes, density)
    if line != "exact":
        assert steps.rate is not None
        lines = np.isfinite(points).sum(1) == 2
        fraction = 1 / 2 if line == "midpoint" else schedule.h / (2 * np.abs(np.expm1(-steps.rate * schedule.h)))
        means[lines] = lagrange(points, (edges[:-1] + fraction * schedule.h)[:, None])[lines, 0]
    return means
