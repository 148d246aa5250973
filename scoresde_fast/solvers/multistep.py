# SPDX-License-Identifier: Apache-2.0
"""Multistep methods: DEIS, iPNDM, DPM-Solver(++), UniPC and SA-Solver, one evaluation per step.

With h the length of a step in l, half the log-SNR, the equations of `noise_schedule` have the solutions

    x' = scale' / scale x + scale' (s' - s) m,                                             in noise prediction,
    x' = std' / std exp(-eta^2 h) x + scale' (1 - exp(-(1 + eta^2) h)) m
         + std' sqrt(1 - exp(-2 eta^2 h)) z,                                               in data prediction,

where m is the mean over the step of e with the weight exp(-l), or of x0 with the weight exp((1 + eta^2) l).  Multistep
methods replace the prediction by the polynomial through its last values: a predictor uses the values up to the start of
the step, a corrector also the value at its end.  Predictor and corrector have the same coefficient of x and the same
noise z, so the corrected state is the predicted one plus a combination of outputs.  The row of the next step adds this
combination, so that a step costs one evaluation.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers.adams import evaluation_points, gauss_legendre, lagrange, mean_weights
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, posterior_mean, time_of
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import AnyRow, Row

Prediction = Literal["data", "noise"]
Variable = Literal["t", "rho", "log_rho"]
"""The variable of the polynomial: the time, s or l = -log s."""
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
    return _rows(
        sde, grid, order, prediction="noise", variable=variable, final=_final_order(lower_order_final, denoise)
    )


@solver(
    "ipndm",
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
    return _rows(sde, grid, order, prediction="noise", variable="rho", final=_final_order(lower_order_final, denoise))


@solver("dpm_2m", source="Lu et al. 2022 (DPM-Solver)", deterministic=True, orders=(2,), finish=posterior_mean)
def dpm_2m(
    sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, denoise: bool, lower_order_final: bool = False
) -> list[AnyRow]:
    """`dpmpp_2m` in noise prediction."""
    return _rows(sde, grid, 2, prediction="noise", line="midpoint", final=_final_order(lower_order_final, denoise))


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
    return _rows(sde, grid, 2, line="midpoint", final=_final_order(lower_order_final, denoise))


@solver("dpmpp_3m", source="Lu et al. 2022 (DPM-Solver++)", deterministic=True, orders=(3,), finish=posterior_mean)
def dpmpp_3m(
    sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool, denoise: bool, lower_order_final: bool = False
) -> list[AnyRow]:
    """m is the mean of the parabola through the last three x0; the second step is one of `dpmpp_2m`."""
    return _rows(sde, grid, 3, line="midpoint", final=_final_order(lower_order_final, denoise))


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
    eta, line = 0.0 if probability_flow else eta, _LINES[variant]
    return _rows(sde, grid, 2, eta=eta, line=line, final=_final_order(lower_order_final, denoise))


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
    return _rows(
        sde, grid, order, prediction=prediction, corrector=True, line=_LINES[variant],
        final=_final_order(lower_order_final, denoise),
    )  # fmt: skip


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
    eta = 0.0 if probability_flow else eta
    return _rows(sde, grid, order, corrector=True, eta=eta, final=_final_order(lower_order_final, denoise))


def _final_order(lower_order_final: bool, denoise: bool) -> int | None:
    """Return the order of the last step, before denoising, whose order is 1; None: it is that of the others."""
    return (2 if denoise else 1) if lower_order_final else None


def _rows(
    sde: ScalarSDE,
    grid: TimeGrid,
    order: int,
    *,
    prediction: Prediction = "data",
    variable: Variable = "log_rho",
    corrector: bool = False,
    eta: float = 0.0,
    line: Line = "exact",
    final: int | None = None,
) -> list[AnyRow]:
    """Return one row per step of a multistep method; the first steps use the past values that exist.

    The predictor interpolates ``order`` values, the corrector one more; at the end fewer and fewer, if ``final`` is
    given: the number of the last step's predictor.
    """
    schedule = NoiseSchedule.at(sde, grid.edges)
    if prediction == "noise":
        derive, noise = schedule.noise_predictions(), np.zeros(len(grid))
        decay = schedule.scale[1:] / schedule.scale[:-1]
        gain = schedule.scale[1:] * np.diff(schedule.noise_to_signal)
    else:
        derive, exponent = schedule.data_predictions(), eta**2 * schedule.h
        noise = schedule.std[1:] * np.sqrt(-np.expm1(-2 * exponent))
        decay = schedule.std[1:] / schedule.std[:-1] * np.exp(-exponent)
        gain = schedule.scale[1:] * -np.expm1(-(1 + eta**2) * schedule.h)
    rate = -1.0 if prediction == "noise" else 1 + eta**2
    most = np.full(len(grid), order)
    if final is not None:
        most = np.minimum(most, final + np.arange(len(grid))[::-1])
    outputs = gain[:, None] * _weights(schedule, most, rate, variable, line)
    if corrector:
        corrected = gain[:, None] * _weights(schedule, most + 1, rate, variable, line, ahead=True)
        predicted = np.pad(outputs, ((0, 0), (1, 0)))
        outputs = np.pad(outputs, ((0, 0), (0, 1)))
        outputs[1:] += decay[1:, None] * (corrected - predicted)[:-1]
    columns = zip(schedule.times, derive, decay, outputs, noise, strict=False)
    return [Row(t, derive, x, outputs=tuple(y), noise=z) for t, derive, x, y, z in columns]


def _weights(
    schedule: NoiseSchedule, most: Array, rate: float, variable: Variable, line: Line, *, ahead: bool = False
) -> Array:
    """Return the weights (n, p) of the predictions, newest first, in their mean with the weight exp(``rate`` l).

    Step i interpolates ``most[i]`` values, the newest of which is at its start, or with ``ahead`` at its end.
    """
    edges = schedule.half_log_snr
    nodes, widths = gauss_legendre(edges)
    match variable:
        case "t":
            at_edges, at_nodes = schedule.times, time_of(schedule.sde, np.exp(-nodes), *schedule.times[[-1, 0]])
        case "rho":
            at_edges, at_nodes = np.exp(-edges), np.exp(-nodes)
        case "log_rho":
            at_edges, at_nodes = edges, nodes
    points = evaluation_points(at_edges, most.max(), ahead=ahead)
    points[np.arange(points.shape[1]) >= most[:, None]] = np.nan
    means = mean_weights(points, at_nodes, widths * np.exp(rate * (nodes - edges[1:, None])))
    if line != "exact":
        lines = np.isfinite(points).sum(1) == 2
        fraction = 1 / 2 if line == "midpoint" else schedule.h / (2 * np.abs(np.expm1(-rate * schedule.h)))
        means[lines] = lagrange(points, (edges[:-1] + fraction * schedule.h)[:, None])[lines, 0]
    return means
