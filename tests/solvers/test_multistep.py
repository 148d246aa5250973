# SPDX-License-Identifier: Apache-2.0
"""DPM-Solver++(2M) compared with the paper, UniPC and SA-Solver with separate predictor and corrector steps."""

from __future__ import annotations

import numpy as np
import pytest

from scoresde_fast.solvers import StepTable
from tests.support.toy_solvers import SDE_OF, STEPS, Mixture, X, data_prediction, rows_of, schedule_of


@pytest.mark.parametrize("name", SDE_OF)
def test_dpmpp_2m_matches_the_paper(name: str) -> None:
    """Algorithm 2 of Lu et al., with their r and D, gives the same result for points of a mixture."""
    sde = SDE_OF[name]
    schedule, x = schedule_of(sde), sde.prior_std * X
    a, s, h = schedule.scale, schedule.std, schedule.h
    end = Mixture().run(sde, StepTable.of(rows_of(sde, "dpmpp_2m")), x)
    previous = None
    for i in range(STEPS):
        newest = data_prediction(sde, schedule, i, x)
        r = h[i - 1] / h[i] if i else np.inf
        d = newest if previous is None else (1 + 1 / (2 * r)) * newest - 1 / (2 * r) * previous
        x, previous = s[i + 1] / s[i] * x - a[i + 1] * (np.exp(-h[i]) - 1) * d, newest
    assert np.allclose(end, x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SDE_OF)
def test_dpmpp_2m_sde_without_noise_is_dpmpp_2m(name: str) -> None:
    """``probability_flow=True`` and ``eta=0`` give the table of the deterministic solver."""
    wanted = rows_of(SDE_OF[name], "dpmpp_2m")
    assert rows_of(SDE_OF[name], "dpmpp_2m_sde", probability_flow=True) == wanted
    assert rows_of(SDE_OF[name], "dpmpp_2m_sde", eta=0.0) == wanted


@pytest.mark.parametrize("name", SDE_OF)
def test_unipc_matches_separate_predictor_and_corrector(name: str) -> None:
    """One row per step gives the same result as UniPC-2 with separate predicted and corrected states."""
    sde = SDE_OF[name]
    schedule, x = schedule_of(sde), sde.prior_std * X
    a, s, h = schedule.scale, schedule.std, schedule.h
    end = Mixture().run(sde, StepTable.of(rows_of(sde, "unipc", order=2)), x)
    outputs = [data_prediction(sde, schedule, 0, x)]
    for i in range(STEPS):
        b = np.expm1(-h[i])  # B(h) of data prediction, whose -h is the paper's h
        base = s[i + 1] / s[i] * x - a[i + 1] * b * outputs[0]
        past = [(outputs[1] - outputs[0]) / (-h[i - 1] / h[i])] if i else []
        predicted = base - a[i + 1] * b * 0.5 * past[0] if i else base
        if i == STEPS - 1:
            break
        newest = data_prediction(sde, schedule, i + 1, predicted)
        # Solve R(h) rho B(h) = phi(h), for the past point and the point 1.
        phi = [np.expm1(-h[i]) / -h[i] - 1]
        phi.append(phi[0] / -h[i] - 0.5)
        right = [phi[0] / b, 2 * phi[1] / b]
        rho = np.linalg.solve([[1.0, 1.0], [-h[i - 1] / h[i], 1.0]], right) if i else [0.5]
        differences = [*past, newest - outputs[0]]
        x = base - a[i + 1] * b * sum(w * d for w, d in zip(rho, differences, strict=True))
        outputs = [newest, outputs[0]]
    assert np.allclose(end, predicted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("name", SDE_OF)
def test_sa_matches_separate_predictor_and_corrector(name: str, tau: float) -> None:
    """One row per step gives the same result as SA-Solver of order 1 with the same noise in predictor and corrector."""
    sde, rate = SDE_OF[name], 1 + tau**2
    schedule, x, normal = schedule_of(sde), sde.prior_std * X, np.random.default_rng(0).normal(size=(STEPS, len(X)))
    a, s, h = schedule.scale, schedule.std, schedule.h
    rows = rows_of(sde, "sa", order=1, eta=tau)
    state, derived = x, np.zeros((2, len(X)))
    for i, (row, z) in enumerate(zip(rows, normal, strict=True)):
        derived = np.stack([data_prediction(sde, schedule, i, state), derived[0]])
        state = row.state * state + np.array(row.outputs) @ derived + row.noise * z
    newest = data_prediction(sde, schedule, 0, x)
    for i, z in enumerate(normal):
        base = s[i + 1] / s[i] * np.exp(-(tau**2) * h[i]) * x + s[i + 1] * np.sqrt(1 - np.exp(-2 * tau**2 * h[i])) * z
        whole = a[i + 1] * (1 - np.exp(-rate * h[i]))
        predicted = base + whole * newest
        if i == STEPS - 1:
            break
        last, newest = newest, data_prediction(sde, schedule, i + 1, predicted)
        at_end = a[i + 1] - whole / (rate * h[i])  # the weight of a value that rises linearly from 0 to 1
        x = base + at_end * newest + (whole - at_end) * last
    assert np.allclose(state, predicted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("denoise", [False, True])
def test_lower_order_final(denoise: bool) -> None:
    """At the end the number of past values falls to 1; the denoising step is the one with 1."""
    rows = rows_of(SDE_OF["vp"], "dpmpp_3m", lower_order_final=True, denoise=denoise)
    assert [np.count_nonzero(row.outputs) for row in rows] == [1, 2, 3, 3, 2, 1]
