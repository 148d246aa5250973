# SPDX-License-Identifier: Apache-2.0
"""Projection coefficients: known pixels have the noise that the state has before every row of every solver."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import scoresde_fast as sf
from scoresde_fast.conditions.projection import marginal_coefficients, projection_coefficients
from scoresde_fast.loop.condition import FIRST_DRAW, RunContext
from scoresde_fast.loop.evaluator import PlainNetwork
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.mixture import gaussian_marginals
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, SubVPSDE
from scoresde_fast.solvers import SOLVERS, SolverOptions, build_table
from tests.support.chance import SIGMAS, standard_error_of_std

SDE_OF: dict[str, SDE] = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE(), "cld": CLDSDE()}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    (sde, solver, {}) for sde in SDE_OF for solver in SOLVERS if isinstance(SDE_OF[sde], SOLVERS[solver].sdes)
]
OPTION_CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("vp", "pc", {}),
    ("ve", "reverse_diffusion", {"probability_flow": True}),
    ("vp", "dpmpp_2m", {"restart": ((0.1, 0.3, 2, 3),)}),
    ("ve", "heun", {"churn": 0.3}),
    ("vp", "ddim", {"eta": 1.0}),
    ("cld", "gddim", {"eta": 1.0}),
    ("cld", "euler_maruyama", {"probability_flow": True}),
]
CASES += OPTION_CASES
IDS = ["-".join([sde, solver, *options]) for sde, solver, options in CASES]
STEPS_ERROR = 0.049
"""The largest relative error of the standard deviation before a row, by `propagate`: that of Euler on CLD's flow."""


@pytest.mark.statistical
@pytest.mark.parametrize(("sde", "solver", "options"), CASES, ids=IDS)
def test_state_before_each_row(sde: str, solver: str, options: dict[str, Any], run_seed: int) -> None:
    """For Gaussian data the state before each row has the standard deviation of that row's time, up to solver error."""
    model = sf.GaussianMixture.gaussian(SDE_OF[sde], 0.0, 0.5, (1, 64, 64))
    first_order = solver == "pc" or SOLVERS[solver].published
    steps = 1000 if first_order else 100  # with fewer steps the solver error exceeds the change by one row
    table = build_table(model.sde, SolverOptions(solver, steps, grid="quadratic", **options))
    program = Program.of_model(model, table, "cpu")
    network, backends = PlainNetwork(model.network, program.labels), StepBackends.choose("cpu")
    loop, noise = Loop(program, network, backends, run_seed=run_seed), Noise(run_seed, torch.arange(4))
    x = model.prior(noise.normal(0, model.state_shape))
    registers, stds = loop.start(loop.registers(tuple(x.shape)), x, noise), []
    with torch.inference_mode():
        for kind in program.kinds:
            stds.append(float(registers.state[:, :1].std()))
            loop.row(kind, registers)
    _, covariance = gaussian_marginals(model.sde, table.times, np.array([0.25]))
    bound = SIGMAS * standard_error_of_std(1.0, 4 * 64 * 64) + STEPS_ERROR
    assert np.abs(np.array(stds) / np.sqrt(covariance[:, 0, 0, 0]) - 1).max() < bound


@pytest.mark.parametrize(("sde", "solver", "options"), OPTION_CASES, ids=IDS[-len(OPTION_CASES) :])
def test_known_pixels_with_options(sde: str, solver: str, options: dict[str, Any]) -> None:
    """With restart, churn, flows or extra noise, known pixels are exact and the others vary."""
    model = sf.GaussianMixture.gaussian(SDE_OF[sde], 0.5, 0.1, (1, 4, 4))
    image, mask = torch.full((1, 4, 4), 0.625), torch.eye(4)
    samples = sf.sample(model, range(3), solver=solver, steps=40, condition=sf.Projection(image, mask), **options)
    known = mask.bool().expand(3, 1, 4, 4)
    torch.testing.assert_close(samples[known], torch.full((12,), 0.625), rtol=0, atol=1e-6)
    assert samples[~known].std() > 0.02


@pytest.mark.parametrize("sde", SDE_OF)
def test_coefficients(sde: str) -> None:
    """Known pixels start with the noise of T, have that of the next row's time after each row, and end at 0 or eps."""
    model = sf.GaussianMixture.gaussian(SDE_OF[sde], 0.5, 0.1, (1, 4, 4))
    for denoise in (True, False):
        options = SolverOptions("euler_maruyama", 8, denoise=denoise)
        run = RunContext(model, build_table(model.sde, options), options, torch.device("cpu"))
        coefficients, eps = projection_coefficients(run), model.sde.sampling_eps
        np.testing.assert_array_equal(coefficients[:-1], marginal_coefficients(model.sde, run.table.times))
        assert run.table.times[0] == model.sde.T
        if denoise:
            np.testing.assert_array_equal(coefficients[-1, :4], [1, 0, 0, 0])
            velocity_variance = model.sde.gamma * model.sde.mass if isinstance(model.sde, CLDSDE) else 0
            assert coefficients[-1, 4] == velocity_variance**0.5
        else:
            np.testing.assert_array_equal(coefficients[-1:], marginal_coefficients(model.sde, np.array([eps])))
    assert RunContext(model, run.table, options, run.device, index=1).first_draw > FIRST_DRAW + len(coefficients)
