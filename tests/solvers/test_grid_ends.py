# SPDX-License-Identifier: Apache-2.0
"""The ends of a run by std / scale: ``sigma_min`` and ``sigma_max``; and ``rho``."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

import scoresde_fast as sf
from scoresde_fast.configs import load_config
from scoresde_fast.sdes import CLDSDE, EDM, SDE, VESDE, VPSDE, Betas, RectifiedFlow, ScalarSDE
from scoresde_fast.solver_choice import described_options
from scoresde_fast.solvers import SolverOptions, build_table, end_time, is_published, make_grid
from scoresde_fast.solvers.exact_moments import Gaussian, prior, propagate
from scoresde_fast.solvers.noise_schedule import time_of
from tests.support.toy_solvers import MEAN, SDE_OF, STD

SCHEDULES: dict[str, ScalarSDE] = {
    **SDE_OF, "edm": EDM(), "rectified_flow": RectifiedFlow(), "betas": Betas.scaled_linear()
}  # fmt: skip
RESTART = ((0.1, 0.4, 1, 3),)


@pytest.mark.parametrize("name", SCHEDULES)
def test_ends(name: str) -> None:
    """A run goes from ``sigma_max`` to ``sigma_min``, after a row that scales the prior to the noise of its start."""
    sde = SCHEDULES[name]
    table = build_table(sde, SolverOptions("dpmpp_2m", 9, grid="karras", sigma_min=0.1, sigma_max=5.0))
    first, *rest = table.rows
    start, end = sde.trained_times(time_of(sde, np.array([5.0, 0.1]), 1e-6, sde.T))
    np.testing.assert_allclose([rest[0].t, rest[-1].t], [start, end])
    assert (first.derive, first.has_noise, first.t) == (None, False, sde.T)
    assert first.state == pytest.approx(float(sde.marginal(start).std) / sde.prior_std)
    assert table.nfe == 9 and len(table.rows) == 10


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("solver", ["em", "dpmpp_2m", "sa", "heun"])
def test_same_as_a_run_from_the_noise_of_the_start(name: str, solver: str) -> None:
    """The distribution after a run from the prior at T is that of its other rows from N(0, std^2) at the start."""
    sde = SCHEDULES[name]
    table = build_table(sde, SolverOptions(solver, 12, grid="logsnr", sigma_max=5.0))
    rest = type(table).of(table.rows[1:])
    std = float(sde.marginal(rest.rows[0].t).std)
    expected = propagate(rest, sde, (MEAN, STD), Gaussian(np.zeros(1), np.array([[std**2]])))
    got = propagate(table, sde, (MEAN, STD), prior(sde))
    np.testing.assert_allclose([*got.mean, *got.covariance[0]], [*expected.mean, *expected.covariance[0]], rtol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_early_start_is_accurate(name: str) -> None:
    """From ten times the range of the data on, 60 steps end at the data's mean and standard deviation within 0.05."""
    sde = SCHEDULES[name]
    table = build_table(sde, SolverOptions("dpmpp_2m", 60, grid="logsnr", sigma_max=12.0))
    end = propagate(table, sde, (MEAN, STD), prior(sde))
    assert abs(end.mean[0] - MEAN) < 0.05 and abs(np.sqrt(end.covariance[0, 0]) - STD) < 0.05


@pytest.mark.parametrize("name", SDE_OF)
def test_smallest_and_largest_values(name: str) -> None:
    """The value at T, also rounded, starts at T without a row of its own; ``sigma_min`` is ``eps`` by its noise."""
    sde = SDE_OF[name]
    whole = SolverOptions("ddim", 9, grid="karras", eps=0.02)
    most, least = (float(sde.noise_to_signal(t)) for t in (sde.T, 0.02))
    for value in (most, most * 1.005):
        table = build_table(sde, SolverOptions("ddim", 9, grid="karras", sigma_min=least, sigma_max=value))
        for ours, expected in zip(table.rows, build_table(sde, whole).rows, strict=True):
            np.testing.assert_allclose(ours.coefficients(), expected.coefficients(), rtol=1e-9, atol=1e-12)


def test_grid_of_score_sde() -> None:
    """It stays with ``sigma_min``; with a ``sigma_max`` below T the uniform grid goes from its time to eps."""
    sde, options = VESDE(), SolverOptions("pc", 6, sigma_min=0.05)
    assert is_published(sde, options) and is_published(sde, SolverOptions("pc", 6, sigma_max=50.0))
    assert build_table(sde, options).times[-1] == end_time(sde, options)
    later = SolverOptions("reverse_diffusion", 6, sigma_max=10.0)
    assert not is_published(sde, later)
    start = float(time_of(sde, np.array([10.0]), 0.0, 1.0)[0])
    np.testing.assert_allclose(build_table(sde, later).times[1:], make_grid("uniform", sde, 6, 1e-5, start=start).times)


def test_restart_below_the_start() -> None:
    """Restart intervals are between the ends of the run."""
    table = build_table(EDM(), SolverOptions("ddim", 9, grid="karras", sigma_max=5.0, restart=RESTART))
    assert [row.t for row in table.rows if row.derive is None] == pytest.approx([80.0, 0.1])
    with pytest.raises(ValueError, match=r"t_max=0.4; it needs eps < t_min < t_max <= 0.3, where eps is 0.002"):
        build_table(EDM(), SolverOptions("ddim", 9, grid="karras", sigma_max=0.3, restart=RESTART))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("solver", ["pc", "dpmpp_2m"])
def test_samples(solver: str, backend: str, run_seed: int) -> None:
    """Samples have the moments of the table, and the description restores the sampler."""
    options: dict[str, Any] = {"steps": 12, "grid": "karras", "sigma_min": 0.05, "sigma_max": 8.0}
    model = sf.GaussianMixture(VPSDE(), [1.0], torch.full((1, 1, 2, 2), MEAN), [STD], is_image=False)
    sampler = sf.Sampler(model, solver, backend=backend, run_seed=run_seed, batch_size=4096, **options)
    assert isinstance(sampler.options, SolverOptions)
    x = sampler.sample(range(4096))
    end = propagate(build_table(VPSDE(), sampler.options), VPSDE(), (MEAN, STD), prior(VPSDE()))
    if solver != "pc":  # the norms of four pixels differ from their expectation
        assert float(x.mean()) == pytest.approx(end.mean[0], abs=0.03)
        assert float(x.std()) == pytest.approx(np.sqrt(end.covariance[0, 0]), abs=0.03)
    assert x.isfinite().all()
    assert sf.Sampler(model, **described_options(sampler.describe())).describe() == sampler.describe()


def test_projection_keeps_known_pixels(run_seed: int) -> None:
    """Known pixels are kept through the row that scales the prior."""
    model = sf.GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 2, 2))
    known, mask = torch.full((1, 1, 2, 2), 0.3), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    options: dict[str, Any] = {"steps": 12, "grid": "karras", "corrector": "ald", "sigma_max": 8.0}
    sampler = sf.Sampler(model, "em", run_seed=run_seed, condition=sf.Projection(known, mask), **options)
    x = sampler.sample(range(8))
    assert torch.allclose(x[:, 0, 0, 0], torch.full((8,), 0.3), atol=1e-5)


def test_eps_of_a_configuration_gives_way() -> None:
    """``sigma_min`` and times replace the ``eps`` of the model's configuration."""
    small = {"name": "ncsnpp", "nf": 8, "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": []}
    images = {"dataset": "digits", "image_size": 8, "num_channels": 1, "centered": True}
    config = {"model": small, "data": images, "training": {"sde": "vpsde"}, "sampling": {"steps": 4, "eps": 0.01}}
    model = sf.create(load_config(config)).eval()
    assert sf.Sampler(model).options.eps == 0.01
    for options in ({"sigma_min": 0.1}, {"grid": [1, 0.5, 0.1]}):
        assert sf.Sampler(model, "ddim", **options).options.eps is None


@pytest.mark.parametrize(
    ("sde", "options", "message"),
    [
        (EDM(), {"rho": 0.0}, "rho is 0.0; it must be a number from 0.1 to 1000, by default 7"),
        (EDM(), {"rho": -7.0}, "rho is -7.0; it must be a number from 0.1"),
        (EDM(), {"rho": float("nan")}, "rho is nan; it must be a number from 0.1"),
        (EDM(), {"rho": 5.0, "grid": "logsnr"}, "rho is 5.0, but grid is 'logsnr': leave out rho, or choose grid='k"),
        (EDM(), {"rho": 5.0, "grid": [80, 1]}, "rho is 5.0, but grid gives the times: leave out one of them"),
        (EDM(), {"sigma_min": 0.1, "eps": 0.2}, "sigma_min is 0.1, but eps is 0.2, and both say where to stop: leave"),
        (
            EDM(),
            {"sigma_min": 2.0, "sigma_max": 2.0},
            "sigma_min is 2.0; it must be smaller than sigma_max, 2.0, where",
        ),
        (
            EDM(),
            {"sigma_min": 3.0, "sigma_max": 2.0},
            "sigma_min is 3.0; it must be smaller than sigma_max, 2.0, where",
        ),
        (EDM(), {"sigma_min": 0.0}, "sigma_min is 0.0; it must be a finite number greater than 0"),
        (EDM(), {"sigma_max": float("inf")}, "sigma_max is inf; it must be a finite number greater than 0"),
        (EDM(), {"sigma_max": 100.0}, "sigma_max is 100.0; on 'edm' std / scale is between 1e-06 and 80"),
        (VESDE(), {"sigma_min": 0.001}, "sigma_min is 0.001; on 'vesde' std / scale is between 0.01 and 50"),
        (EDM(), {"sigma_min": 80.0}, "sigma_min is 80.0, so that the run would start at t=80 and stop at t=80: choose"),
        (
            EDM(),
            {"sigma_max": 0.1, "eps": 0.2},
            "sigma_max is 0.1 and eps is 0.2, so that the run would start at t=0.1 and stop at t=0.2: choose a larger ",
        ),
        (
            Betas.scaled_linear(),
            {"sigma_min": 0.0294, "sigma_max": 0.0295},
            "so that the run would start at t=0.001 and stop at t=0.001: choose a larger sigma_max",
        ),
        (EDM(), {"sigma_min": 1.0, "grid": [80, 1]}, "sigma_min is 1.0, but grid gives the times: leave out one of"),
        (EDM(), {"sigma_max": 9.0, "grid": [80, 1]}, "sigma_max is 9.0, but grid gives the times: leave out one of"),
        (
            CLDSDE(),
            {"solver": "gddim", "sigma_max": 1.0},
            "sigma_max is 1.0, but on 'cld' runs start at T, where position and velocity are independent: leave it out",
        ),
        (
            Betas.scaled_linear(),
            {"steps": 20, "sigma_max": 0.05},
            "19 steps from t=0.003 to 0.001 are too many for the times of training: take fewer",
        ),
    ],
)
def test_refusals(sde: SDE, options: dict[str, Any], message: str) -> None:
    """The message has the values, what is allowed and the fix."""
    steps = {} if isinstance(options.get("grid"), list) else {"steps": 9}
    with pytest.raises(ValueError, match=re.escape(message)):
        build_table(sde, SolverOptions(**{"solver": "dpmpp_2m", "grid": "karras", **steps, **options}))
