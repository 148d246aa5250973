# SPDX-License-Identifier: Apache-2.0
"""Time grids given by their values."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from scoresde_fast.sdes import EDM, SDE, VPSDE, Betas, RectifiedFlow
from scoresde_fast.solvers import SolverOptions, build_table


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
            "grid is 1, 0.7, 0.8; its values must fall, from noise to data, but 0.8 follows 0.7: sort them and leave",
        ),
        ({"grid": [0.1, 0.5, 1]}, "grid is 0.1, 0.5, 1; its values must fall, from noise to data, but 0.5 follows 0.1"),
        ({"grid": [1, 0.5, 0.5]}, "but 0.5 follows 0.5: sort them and leave out duplicates"),
        ({"grid": "sigmas:1,2,0"}, "grid is 1, 2; its values must fall, from noise to data, but 2 follows 1"),
        ({"grid": [1, float("nan")]}, "grid has the value nan; it must have finite numbers only"),
        ({"grid": "sigmas:inf,1"}, "grid has the value inf; it must have finite numbers only"),
        ({"grid": [2, 0.1]}, "grid is 2, 0.1; on 'vpsde' times are at most 1 and greater than 0: for values of std"),
        ({"grid": [1, -0.1]}, "grid is 1, -0.1; on 'vpsde' times are at most 1 and greater than 0: for values of std"),
        ({"grid": "sigmas:100,-1"}, "grid has sigmas from -1 to 100; on 'vpsde' std / scale is between 0.000316"),
        ({"grid": [1]}, "grid has one value above 0; it needs at least two: the start and the end of a step"),
        ({"grid": [0]}, "grid has no value above 0; it needs at least two"),
        ({"grid": [0.5, 0.1]}, "grid starts at t=0.5, where the noise is 0.9597, but the prior is at t=1"),
        ({"grid": [1, 0]}, "grid has one value above 0; it needs at least two"),
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
