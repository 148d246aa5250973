# SPDX-License-Identifier: Apache-2.0
"""SEEDS compared with plain loops whose noises are those of the paper, and its weak order in noise prediction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from scoresde_fast.sdes import Array
from scoresde_fast.solvers import SOLVERS, SolverOptions, StepTable, build_table, make_grid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule
from tests.support.toy_solvers import EPS, SDE_OF, Mixture, X, error_in_moments, order_of, rows_of, slope_in_s

STEPS = 24
"""With fewer steps noise prediction diverges."""
Output = Callable[[Array, float], Array]
"""The prediction at y and s."""


@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", SDE_OF)
def test_seeds_matches_the_paper(name: str, order: int, prediction: str) -> None:
    """The steps of Gonzalez et al. with their correlated noises, for y = x / scale and s = std / scale.

    Their alpha is then 1 and their sigma s.  Noise prediction is as published, data prediction has the same stages.
    """
    sde = SDE_OF[name]
    schedule = NoiseSchedule.at(sde, make_grid("logsnr", sde, STEPS, EPS).edges)
    normals = np.random.default_rng(0).normal(size=(STEPS, order, len(X)))
    step = {"noise": noise_step, "data": data_step}[prediction]

    def output(y: Array, s: float) -> Array:
        e = slope_in_s(sde, y, s)
        return e if prediction == "noise" else y - s * e

    y = sde.prior_std * X / schedule.scale[0]
    for i, (s, h) in enumerate(zip(schedule.noise_to_signal[:-1], schedule.h, strict=True)):
        y = step(output, y, s, h, normals[i], order)
    options = SolverOptions("seeds", STEPS, grid="logsnr", denoise=False, eps=EPS, order=order, prediction=prediction)
    table = build_table(sde, options)
    end = Mixture().run(sde, table, sde.prior_std * X, normals.reshape(-1, len(X)))
    assert np.isfinite(end).all()
    np.testing.assert_allclose(end, schedule.scale[-1] * y, rtol=1e-8, atol=1e-8)


def noise_step(output: Output, y: Array, s: float, h: float, z: Array, order: int) -> Array:
    """Return y after a step of length ``h`` in noise prediction."""
    first, end = output(y, s), s * np.exp(-h)
    if order == 1:
        return y - 2 * end * np.expm1(h) * first + end * np.sqrt(np.expm1(2 * h)) * z[0]
    if order == 2:
        middle = s * np.exp(-h / 2)
        u = y - 2 * middle * np.expm1(h / 2) * first + middle * np.sqrt(np.expm1(h)) * z[0]
        noise = np.sqrt(np.exp(2 * h) - np.exp(h)) * z[0] + np.sqrt(np.expm1(h)) * z[1]
        return y - 2 * end * np.expm1(h) * output(u, middle) + end * noise
    s1, s2 = s * np.exp(-h / 3), s * np.exp(-2 * h / 3)
    u = y - 2 * s1 * np.expm1(h / 3) * first + s1 * np.sqrt(np.expm1(2 * h / 3)) * z[0]
    slope = 2 * (np.expm1(2 * h / 3) / (2 * h / 3) - 1) * (output(u, s1) - first)
    noise = np.sqrt(np.exp(4 * h / 3) - np.exp(2 * h / 3)) * z[0] + np.sqrt(np.expm1(2 * h / 3)) * z[1]
    u = y - 2 * s2 * (np.expm1(2 * h / 3) * first + slope) + s2 * noise
    slope = 3 / 2 * (np.expm1(h) / h - 1) * (output(u, s2) - first)
    noise = np.sqrt(np.exp(2 * h) - np.exp(4 * h / 3)) * z[0] + np.sqrt(np.exp(4 * h / 3) - np.exp(2 * h / 3)) * z[1]
    noise = noise + np.sqrt(np.expm1(2 * h / 3)) * z[2]
    return y - 2 * end * (np.expm1(h) * first + slope) + end * noise


def data_step(output: Output, y: Array, s: float, h: float, z: Array, order: int) -> Array:
    """Return y after a step of length ``h`` in data prediction: dy = 2 (x0 - y) dl + sqrt(2) s dw."""

    def until(r: float, x0: Array, slope: Array, noise: Array) -> Array:
        """Return y at the fraction ``r``, if x0 goes on by ``slope`` over this part of the step."""
        line = slope * (1 + np.expm1(-2 * r * h) / (2 * r * h))
        return np.exp(-2 * r * h) * y - np.expm1(-2 * r * h) * x0 + line + s * np.exp(-r * h) * noise

    def noise(r: float, places: list[float]) -> Array:
        """Return the noise at the fraction ``r``, whose parts end at ``places``."""
        starts = [0.0, *places[:-1]]
        variances = [np.exp(2 * (b - r) * h) - np.exp(2 * (a - r) * h) for a, b in zip(starts, places, strict=True)]
        return sum(np.sqrt(variance) * normal for variance, normal in zip(variances, z, strict=False))

    first, zero = output(y, s), np.zeros_like(y)
    if order == 1:
        return until(1, first, zero, noise(1, [1]))
    if order == 2:
        u = until(1 / 2, first, zero, noise(1 / 2, [1 / 2]))
        return until(1, output(u, s * np.exp(-h / 2)), zero, noise(1, [1 / 2, 1]))
    u = until(1 / 3, first, zero, noise(1 / 3, [1 / 3]))
    u = until(2 / 3, first, 2 * (output(u, s * np.exp(-h / 3)) - first), noise(2 / 3, [1 / 3, 2 / 3]))
    return until(1, first, 3 / 2 * (output(u, s * np.exp(-2 * h / 3)) - first), noise(1, [1 / 3, 2 / 3, 1]))


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2s", "dpmpp_3s"])
@pytest.mark.parametrize("name", SDE_OF)
def test_without_noise(name: str, solver: str) -> None:
    """On the flow the three orders are `ddim`, `dpmpp_2s` and `dpmpp_3s`."""
    sde, order = SDE_OF[name], 1 if solver == "ddim" else int(solver[-2])
    rows = rows_of(sde, "seeds", order=order, probability_flow=True)
    assert rows == rows_of(sde, "seeds", order=order, eta=0.0)
    end, wanted = (Mixture().run(sde, StepTable.of(r), sde.prior_std * X) for r in (rows, rows_of(sde, solver)))
    np.testing.assert_allclose(end, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", SDE_OF)
def test_weak_order_in_noise_prediction(name: str, order: int) -> None:
    """Mean and standard deviation converge at the weak order.

    On the grid "logsnr" and with eta = 1 the leading errors of orders 1 and 2 cancel on Gaussian data.
    """
    sizes = (200, 400, 800)
    errors = [
        error_in_moments(
            SDE_OF[name],
            SolverOptions("seeds", n, grid="karras", denoise=False, eps=EPS, order=order, prediction="noise"),
        )
        for n in sizes
    ]
    assert order_of(sizes, errors) == pytest.approx(SOLVERS["seeds"].convergence(order, noisy=True), abs=0.25)
