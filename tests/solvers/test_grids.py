# SPDX-License-Identifier: Apache-2.0
"""Time grids: their ends, given edges and spacing."""

from __future__ import annotations

import re
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch

from scoresde_fast.configs.schema import SamplingConfig
from scoresde_fast.sdes import EDM, SDE, VPSDE, Betas, RectifiedFlow
from scoresde_fast.solvers import GRIDS, SolverOptions, build_table, make_grid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule
from tests.support.toy_solvers import SDE_OF


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", SDE_OF)
def test_grids_end_at_eps(name: str, grid: str) -> None:
    """Grids of the fast solvers descend from the start exactly to eps and pass through the given times."""
    sde = SDE_OF[name]
    whole = make_grid(grid, sde, 12, 0.01, through=(0.3, 0.05)).edges
    assert len(whole) == 13 and (whole[0], whole[-1]) == pytest.approx((1.0, 0.01), rel=1e-12)
    assert {0.3, 0.05} <= set(whole) and (np.diff(whole) < 0).all()
    part = make_grid(grid, sde, 5, 0.2, start=0.6).edges
    assert len(part) == 6 and (np.diff(part) < 0).all()
    assert (part[0], part[-1]) == pytest.approx((0.6, 0.2), rel=1e-12)


def test_configurations_accept_every_grid() -> None:
    """The type of the option "sampling.grid" lists `GRIDS`."""
    assert get_args(get_type_hints(SamplingConfig)["grid"]) == tuple(GRIDS)


@pytest.mark.parametrize("name", SDE_OF)
def test_logsnr_grid_is_even(name: str) -> None:
    """Steps have equal lengths in log(scale / std)."""
    widths = NoiseSchedule.at(SDE_OF[name], make_grid("logsnr", SDE_OF[name], 20, 1e-3).edges).h
    assert widths == pytest.approx(np.full(20, widths.mean()), rel=1e-9)


@pytest.mark.parametrize(
    ("sde", "grid", "times"),
    [
        (VPSDE(), [1, 0.5, 0.1], [1, 0.5, 0.1]),
        (VPSDE(), "1,0.5,0.1,0", [1, 0.5, 0.1]),
        (EDM(), np.array([80.0, 10.0, 1.0, 0.5]), [80, 10, 1, 0.5]),
        (EDM(), ("sigmas", torch.tensor([80.0, 10.0, 0.0])), [80, 10]),
        (EDM(), "sigmas:80,10,1", [80, 10, 1]),
        (EDM(0.002, 14.6146), torch.tensor([14.6146, 1.0]), [14.6146, 1]),
        (RectifiedFlow(), torch.linspace(1, 0, 6), [0.999, 0.8, 0.6, 0.4, 0.2]),
        (Betas.linear(10, 0.1, 0.9), [1, 0.62, 0.58, 0.49, 0.1], [1, 0.7, 0.6, 0.5, 0.1]),
    ],
)
def test_given_times(sde: SDE, grid: Any, times: list[float]) -> None:
    """Times and values of std / scale can be given; the last row denoises; times are moved to those of training."""
    options = SolverOptions("dpmpp_2m", grid=grid)
    assert options.steps == len(times) - 1
    np.testing.assert_allclose(build_table(sde, options).times, times, rtol=1e-6)


def test_given_times_of_the_grid_are_the_grid() -> None:
    """A run on the times of a named grid is the run on this grid."""
    named = build_table(VPSDE(), SolverOptions("unipc", 12, grid="karras"))
    given = build_table(VPSDE(), SolverOptions("unipc", grid=named.times.tolist()))
    for ours, expected in zip(given.rows, named.rows, strict=True):
        np.testing.assert_allclose(ours.coefficients(), expected.coefficients(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"grid": [1, 0.7, 0.8]},
            "grid is 1, 0.7, 0.8; times must fall, from 1 or less to above 0: give values of std / scale as",
        ),
        ({"grid": [0.5, 0.1]}, "grid starts at t=0.5, where the noise is 0.9597, but the prior is at t=1"),
        ({"grid": [1, 0]}, "grid has 1 values above 0; it needs at least two"),
        ({"grid": "a,b"}, "grid is 'a,b'; it must be a name, times such as 1,0.5,0.1, or sigmas:80,10,1,0.1"),
        ({"grid": "sigmas:200,1"}, "grid has sigmas from 1 to 200; on 'vpsde' std / scale is between"),
        ({"grid": [1, 0.1], "steps": 7}, "steps is 7, but grid has 2 values, for 1: leave out steps"),
        ({"grid": [1, 0.1], "eps": 0.1}, "eps is 0.1, but grid gives the times: leave out one of them"),
        ({"grid": [1, 0.1, 0], "denoise": False}, "grid ends at 0, which needs denoising"),
    ],
)
def test_wrong_times(options: dict[str, Any], message: str) -> None:
    """The message has the values, what is allowed and the fix."""
    with pytest.raises(ValueError, match=re.escape(message)):
        build_table(VPSDE(), SolverOptions("dpmpp_2m", **options))
