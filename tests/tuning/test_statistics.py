# SPDX-License-Identifier: Apache-2.0
"""Statistics of a model's predictions, and the solver that uses them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import scoresde_fast as sf
from scoresde_fast.bench.measures import mixture
from scoresde_fast.cli import main
from scoresde_fast.sdes import VESDE, VPSDE, ScalarSDE
from scoresde_fast.solvers import Row, SolverOptions, build_table
from scoresde_fast.solvers.exact_steps import integral
from tests.tuning.test_tune import refused

STD = 0.4
GRID = (1.0, 0.7, 0.4, 0.2, 0.05, 0.001)


@pytest.fixture(autouse=True)
def few_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure with few seeds."""
    monkeypatch.setattr(sys.modules["scoresde_fast.tuning.statistics"], "SEEDS", range(8))


@pytest.mark.parametrize("sde", [VESDE(), VPSDE()], ids=lambda sde: sde.name)
def test_statistics_of_a_gaussian(sde: ScalarSDE) -> None:
    """For N(0, STD^2) the derivative of s e is s^2 / (STD^2 + s^2): the statistics have it, up to differences."""
    model = sf.GaussianMixture.gaussian(sde, 0.0, STD, (1, 2, 2))
    half_log_snr, linear, _ = np.array(sf.empirical_statistics(model)).T
    s = np.exp(-half_log_snr)
    assert linear == pytest.approx(s**2 / (STD**2 + s**2), abs=1e-3)


@pytest.mark.parametrize("sde", [VESDE(), VPSDE()], ids=lambda sde: sde.name)
def test_exact_statistics_of_a_gaussian_make_steps_exact(sde: ScalarSDE) -> None:
    """With the exact linear coefficient nothing is left to predict: steps of any length are exact.

    From one state the run ends at that state times the ratio of the marginal deviations, with the exact score.
    """
    s = np.geomspace(1e-4, 1e3, 4000)
    rows = sorted(zip(-np.log(s), s**2 / (STD**2 + s**2), np.zeros_like(s), strict=True))
    options = SolverOptions("dpm_v3", grid=GRID, probability_flow=True, denoise=False, statistics=tuple(rows))
    x, outputs = 1.0, list[float]()
    for row in build_table(sde, options).rows:
        scale, std = (float(value) for value in sde.marginal(np.array(row.t)))
        assert isinstance(row, Row) and row.derive is not None
        outputs = [row.derive[0] * x - row.derive[1] * x / (scale**2 * STD**2 + std**2), *outputs]
        x = row.state * x + sum(weight * output for weight, output in zip(row.outputs, outputs, strict=False))
    scales, stds = sde.marginal(np.array(GRID))
    deviation = np.sqrt(scales**2 * STD**2 + stds**2)
    assert x == pytest.approx(deviation[-1] / deviation[0], rel=1e-5)


def test_integral_of_a_line() -> None:
    """The integral of a line through points is exact, also beyond the points, where the line is constant."""
    at, values = np.array([0.0, 1.0, 3.0]), np.array([1.0, 2.0, 0.0])
    assert integral(at, values, np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 5.0])) == pytest.approx(
        [-1.0, 0.0, 0.625, 1.5, 3.0, 3.5, 3.5]
    )


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command writes statistics.json, with which solver="dpm_v3" samples; a model without it is refused."""
    monkeypatch.setattr("scoresde_fast.tuning.flow.FINE_STEPS", 32)
    torch.manual_seed(0)
    config = {
        "model": {"name": "ncsnpp", "nf": 8, "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": []},
        "data": {"dataset": "digits", "image_size": 8, "num_channels": 1, "centered": True},
        "training": {"sde": "vpsde"},
    }
    sf.create(config).save_pretrained(tmp_path / "model")
    model = sf.load(tmp_path / "model")
    assert "statistics.json does not exist: run scoresde-fast statistics first" in refused(
        lambda: sf.Sampler(model, "dpm_v3", 5)
    )
    assert main(["statistics", str(tmp_path / "model")]) == 0
    sampler = sf.Sampler(model, "dpm_v3", 5)
    assert isinstance(sampler.options, SolverOptions) and sampler.options.statistics
    own = sf.Sampler(model, "dpm_v3", 5, statistics=sf.empirical_statistics(model))
    assert torch.allclose(own.sample(2), sampler.sample(2), atol=1e-4)
    out = ["--seeds", "0-1", "--steps", "4", "--out", str(tmp_path / "set")]
    assert main(["sample", str(tmp_path / "model"), "--solver", "dpm_v3", *out]) == 0
    assert "it needs no statistics" in refused(lambda: sf.empirical_statistics(mixture("mixture-cld")))


def test_model_without_a_folder() -> None:
    """It runs without statistics, and a warning says how to pass them."""
    with pytest.warns(UserWarning, match="pass statistics=scoresde_fast.empirical_statistics"):
        assert sf.Sampler(mixture("mixture-vp"), "dpm_v3", 5).sample(2).isfinite().all()


def test_invalid_statistics() -> None:
    """Rows of another length or order are refused."""
    for statistics in (((0.0, 1.0),), ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0))):
        options = SolverOptions("dpm_v3", 5, statistics=statistics)
        assert "three numbers in each row" in refused(lambda options=options: build_table(VPSDE(), options))
