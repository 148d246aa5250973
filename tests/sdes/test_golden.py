# SPDX-License-Identifier: Apache-2.0
"""SDE functions agree with those recorded from score_sde."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from scoresde_fast.bench.candidates import REFERENCES, SUITED_GRIDS
from scoresde_fast.bench.measures import MIXTURES
from scoresde_fast.configs.schema import SDEName
from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.sdes import SDE, SDES, Reverse
from tests.support.golden import assert_close
from tests.support.toy_solvers import SDE_OF

N = 1000


@pytest.fixture(scope="module")
def steps(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "score_sde_steps.npz") as archive:
        return dict(archive)


def column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values)[:, None, None, None]


def recorded_score(sde: SDE, x: np.ndarray, t: np.ndarray) -> np.ndarray:
    model = GaussianMixture.gaussian(sde, 0.3, 0.5, x.shape[1:])
    return model.score(torch.from_numpy(x).double(), torch.from_numpy(t)).numpy()


@pytest.mark.parametrize("name", SDE_OF)
def test_sde_functions(steps: dict[str, np.ndarray], name: str) -> None:
    """Score, marginal, drift, diffusion, discretisation and prior density agree to 1e-6."""
    sde, x, t = SDE_OF[name], steps[f"{name}/x"], steps[f"{name}/t"].astype(np.float64)
    scale, std = sde.marginal(t)
    drift, diffusion = sde.discretise(t, N)
    assert_close(recorded_score(sde, x, t), steps[f"{name}/score"], 1e-6)
    assert_close(column(scale) * x, steps[f"{name}/marginal_mean"], 1e-6)
    assert_close(std, steps[f"{name}/marginal_std"], 1e-6)
    assert_close(column(sde.drift(t)) * x, steps[f"{name}/drift"], 1e-6)
    assert_close(sde.diffusion(t), steps[f"{name}/diffusion"], 1e-6)
    assert_close(column(drift) * x, steps[f"{name}/disc_f"], 1e-6, x)
    # On VE the diffusion is the root of a difference of squared noise levels, which cancels.
    levels = sde.marginal(t).std ** 2 if name == "ve" else 0 * t
    assert_close(diffusion**2, steps[f"{name}/disc_G"].astype(np.float64) ** 2, 1e-6, levels)
    assert_close(sde.prior_log_density(x), steps[f"{name}/prior_logp"], 1e-6)


@pytest.mark.parametrize("probability_flow", [False, True], ids=["sde", "flow"])
@pytest.mark.parametrize("name", SDE_OF)
def test_reverse_functions(steps: dict[str, np.ndarray], name: str, probability_flow: bool) -> None:
    """The reverse SDE and the probability flow, continuous and discretised, agree to 1e-6."""
    sde, x, t = SDE_OF[name], steps[f"{name}/x"], steps[f"{name}/t"].astype(np.float64)
    score = recorded_score(sde, x, t)
    key = f"{name}/reverse_pf{int(probability_flow)}"
    levels = sde.marginal(t).std ** 2 if name == "ve" else 0 * t
    f, g = sde.discretise(t, N)
    discretised = Reverse(f, -(0.5 if probability_flow else 1.0) * g**2, g * (not probability_flow))
    for reverse, drift_key, diffusion_key, operands in (
        (sde.reverse(t, probability_flow=probability_flow), "drift", "diffusion", []),
        (discretised, "disc_f", "disc_G", [x, column(levels) * score]),
    ):
        terms = column(reverse.drift_x) * x, column(reverse.drift_score) * score
        assert_close(terms[0] + terms[1], steps[f"{key}/{drift_key}"], 1e-6, *terms, *operands)
        expected = np.broadcast_to(steps[f"{key}/{diffusion_key}"], t.shape).astype(np.float64)
        assert_close(reverse.diffusion**2, expected**2, 1e-6, levels)


def test_registry_has_the_official_names() -> None:
    """SDEs have the names of the official configurations, which the schema and the benchmarks list too."""
    assert [*SDES] == [sde.name for sde in SDES.values()] == ["vesde", "vpsde", "subvpsde", "cld"]
    assert get_args(SDEName) == tuple(SDES)
    measured = {make().name for make in MIXTURES.values()}
    assert SDES.keys() <= SUITED_GRIDS.keys() == REFERENCES.keys() == measured
