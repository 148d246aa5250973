# SPDX-License-Identifier: Apache-2.0
"""PNDM compared with a plain loop and with the scheduler of diffusers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scoresde_fast.sdes import EDM
from scoresde_fast.solvers import SolverOptions, StepTable, TimeGrid, build_table
from scoresde_fast.solvers.noise_schedule import NoiseSchedule
from scoresde_fast.solvers.pndm import pndm
from tests.support.toy_solvers import SDE_OF, STEPS, Mixture, X, order_of, rows_of, schedule_of, slope_in_s


@pytest.mark.parametrize("name", SDE_OF)
def test_pndm_matches_the_paper(name: str) -> None:
    """Pseudo Runge-Kutta steps, then pseudo linear multistep ones, for x / scale, give the same states."""
    sde, schedule = SDE_OF[name], schedule_of(SDE_OF[name])
    s = schedule.noise_to_signal
    halves = NoiseSchedule.at(sde, (schedule.times[:-1] + schedule.times[1:]) / 2).noise_to_signal
    y, past = sde.prior_std * X / schedule.scale[0], []
    for i in range(STEPS):
        past.append(slope_in_s(sde, y, s[i]))
        if i < 3:
            second = slope_in_s(sde, y + (halves[i] - s[i]) * past[i], halves[i])
            third = slope_in_s(sde, y + (halves[i] - s[i]) * second, halves[i])
            fourth = slope_in_s(sde, y + (s[i + 1] - s[i]) * third, s[i + 1])
            e = (past[i] + 2 * second + 2 * third + fourth) / 6
        else:
            e = (55 * past[i] - 59 * past[i - 1] + 37 * past[i - 2] - 9 * past[i - 3]) / 24
        y = y + (s[i + 1] - s[i]) * e
    end = Mixture().run(sde, StepTable.of(rows_of(sde, "pndm")), sde.prior_std * X)
    np.testing.assert_allclose(end, schedule.scale[-1] * y, rtol=1e-8, atol=1e-8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", SDE_OF)
def test_same_as_diffusers(name: str) -> None:
    """`PNDMScheduler` gives the same states, if its table of alphas holds the edges and the middles of our steps."""
    diffusers = pytest.importorskip("diffusers")
    sde, schedule = SDE_OF[name], schedule_of(SDE_OF[name])
    times = np.empty(2 * STEPS + 1)
    times[::2], times[1::2] = schedule.times, (schedule.times[:-1] + schedule.times[1:]) / 2
    scale, std = sde.marginal(times)
    norm = np.sqrt(scale**2 + std**2)  # their states have scale^2 + std^2 = 1
    alphas = torch.from_numpy((scale / norm) ** 2)
    scheduler = diffusers.PNDMScheduler(2 * STEPS, skip_prk_steps=False)
    scheduler.set_timesteps(STEPS)
    last = 2 * STEPS - 2  # the index at the start of the first step, from which times fall
    scheduler.alphas_cumprod, scheduler.final_alpha_cumprod = alphas[: last + 1].flip(0), alphas[-1]
    state = torch.from_numpy(sde.prior_std * X / norm[0])
    for index in scheduler.timesteps:
        place = last - int(index)
        score = Mixture().score(sde, state.numpy() * norm[place], times[place])
        state = scheduler.step(torch.from_numpy(-std[place] * score), index, state, return_dict=False)[0]
    end = Mixture().run(sde, StepTable.of(rows_of(sde, "pndm")), sde.prior_std * X)
    np.testing.assert_allclose(end, state.numpy() * norm[-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
def test_evaluations(steps: int) -> None:
    """The first three steps cost four evaluations, each other one."""
    table = build_table(SDE_OF["vp"], SolverOptions("pndm", steps, denoise=False))
    assert table.nfe == steps + 3 * min(steps, 3)


def test_order_on_steps_of_equal_length() -> None:
    """On steps of equal length in s, and so in the t of EDM, the order is 4, within 0.25."""
    sde, sizes = EDM(0.01, 2.0), (80, 160, 320)
    start = sde.prior_std * X
    grids = {n: TimeGrid.between(np.linspace(sde.T, 0.3, n + 1)) for n in (*sizes, 2560)}
    ends = {n: Mixture().run(sde, StepTable.of(pndm(sde, g, probability_flow=True)), start) for n, g in grids.items()}
    errors = [float(np.abs(ends[n] - ends[2560]).max()) for n in sizes]
    assert order_of(sizes, errors) == pytest.approx(4, abs=0.25)
