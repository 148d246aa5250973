# SPDX-License-Identifier: Apache-2.0
"""SSCS: merged and unmerged half steps, and the integration of beta in the official code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from scoresde_fast.noise import Noise
from scoresde_fast.sdes import CLDSDE
from scoresde_fast.solvers import SolverOptions, StepTable, build_table, make_grid
from scoresde_fast.solvers.exact_moments import prior, propagate
from scoresde_fast.solvers.sscs import sscs
from tests.support.chance import kolmogorov_smirnov_bound
from tests.support.cld import CONSTANT, DAMPINGS, LINEAR, MEAN, STD, mixture, run


def test_original_differs_only_for_linear_beta() -> None:
    """SSCS with ``original`` is the same for a constant beta, and differs for a linear beta."""
    for sde, same in ((CONSTANT, True), (LINEAR, False)):
        ends = []
        for original in (False, True):
            table = build_table(sde, SolverOptions("sscs", 8, grid="quadratic", original=original))
            ends.append(propagate(table, sde, (MEAN, STD), prior(sde)).covariance)
        assert np.allclose(ends[0], ends[1], rtol=1e-9) == same


def unmerged_table(sde: CLDSDE, grid: str, steps: int) -> StepTable:
    """Return the table of SSCS with one row per half step."""
    return StepTable.of(sscs(sde, make_grid(grid, sde, steps, 1e-3), probability_flow=False, joined=False))


@pytest.mark.parametrize("grid", ["uniform", "quadratic"])
@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("beta", [(4.0, 0.0), (0.1, 6.9)], ids=["constant", "linear"])
def test_merged_and_unmerged_sscs_agree(beta: tuple[float, float], damping: str, grid: str) -> None:
    """Mean and covariance before each score evaluation and at the end agree to 1e-12."""
    sde = CLDSDE(friction=DAMPINGS[damping], beta0=beta[0], beta1=beta[1])
    steps = 20
    merged = build_table(sde, SolverOptions("sscs", steps, grid=grid, denoise=False)).rows
    halves = unmerged_table(sde, grid, steps).rows
    assert (len(merged), len(halves)) == (steps + 1, 2 * steps)
    for done in range(1, steps + 1):
        # Before the last step the unmerged table needs another half step to reach the same evaluation.
        half_steps = 2 * done if done == steps else 2 * done + 1
        tables = StepTable.of(merged[: done + 1]), StepTable.of(halves[:half_steps])
        a, b = (propagate(table, sde, (MEAN, STD), prior(sde)) for table in tables)
        assert np.abs(a.mean - b.mean).max() <= 1e-12
        assert np.abs(a.covariance - b.covariance).max() <= 1e-12


@pytest.mark.statistical
def test_samples_of_merged_and_unmerged_sscs(run_seed: int) -> None:
    """10^5 samples of a mixture from each, with independent noise, pass a Kolmogorov-Smirnov test of x and of v."""
    samples, count = [], 100_000
    tables = (
        build_table(CONSTANT, SolverOptions("sscs", 8, grid="quadratic", denoise=False)),
        unmerged_table(CONSTANT, "quadratic", 8),
    )
    for seed, table in enumerate(tables, start=2 * run_seed):
        model = mixture(CONSTANT)
        u = model.prior(Noise(seed, torch.arange(count)).normal(0, model.state_shape))
        samples.append(run(model, table, u, seed=seed).flatten(1).numpy())
    for part in (0, 1):
        distance = ks_2samp(samples[0][:, part], samples[1][:, part]).statistic
        assert distance <= kolmogorov_smirnov_bound([count, count])
