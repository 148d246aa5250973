# SPDX-License-Identifier: Apache-2.0
"""Langevin correctors: runs with a corrector, and annealed Langevin on the pairs of CLD."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import scoresde_fast as sf
from scoresde_fast.sdes import CLDSDE, SDE, VPSDE
from scoresde_fast.solvers import SOLVERS, SolverOptions, StepTable, TimeGrid, build_table
from scoresde_fast.solvers.correctors import annealed_langevin
from scoresde_fast.solvers.exact_moments import Gaussian, marginal, prior, propagate
from tests.support.chance import assert_moments
from tests.support.toy_solvers import MEAN, SDE_OF, STD, assert_prediction, sample

SDES = {"constant": CLDSDE(), "linear": CLDSDE(beta0=0.1, beta1=6.9, numerical_eps=1e-6), "over": CLDSDE(friction=2.0)}
DATA = (0.3, 0.5)
PUBLISHED = {name: entry for name, entry in SOLVERS.items() if entry.published}
CORRECTED = [
    (name, solver, corrector)
    for name, sde in SDE_OF.items()
    for solver, entry in PUBLISHED.items()
    for corrector in ("langevin", "ald")
    if isinstance(sde, entry.sdes)
]


@pytest.mark.statistical
@pytest.mark.parametrize(("name", "solver", "corrector"), CORRECTED, ids=["-".join(case) for case in CORRECTED])
def test_distribution_after_a_corrected_run(name: str, solver: str, corrector: str, run_seed: int) -> None:
    """20 000 samples with two corrector steps per step, and norms over the batch, have the moments of the table."""
    sde = SDE_OF[name]
    table = build_table(sde, SolverOptions(solver, 25, corrector, corrector_steps=2))
    predicted = propagate(table, sde, (MEAN, STD), prior(sde))
    assert_prediction(sample(sde, table, run_seed, (1, 2, 2)), predicted)


def corrected(sde: CLDSDE, t: float, snr: float, rows: int) -> Gaussian:
    """Return the state after ``rows`` corrector steps at ``t``, from an arbitrary Gaussian."""
    (row,) = annealed_langevin(sde, TimeGrid.between(np.array([t, t / 2])), snr)
    return propagate(StepTable.of([row] * rows), sde, DATA, Gaussian(np.array([3.0, -2.0]), np.diag([4.0, 0.01])))


@pytest.mark.parametrize("t", [0.25, 0.4, 1.0])
@pytest.mark.parametrize("name", SDES)
def test_corrector_converges_to_the_marginal(name: str, t: float) -> None:
    """The mean converges exactly, the covariance up to an error proportional to the step size."""
    sde = SDES[name]
    wanted = marginal(sde, t, *DATA)
    slowest_rate = np.linalg.eigvals(sde.marginal(t).covariance @ np.linalg.inv(wanted.covariance)).min()
    errors = []
    for snr in (0.2, 0.1):
        got = corrected(sde, t, snr, rows=int(12 / (slowest_rate * snr**2)))
        assert np.allclose(got.mean, wanted.mean, rtol=1e-6, atol=1e-9)
        errors.append(np.abs(got.covariance - wanted.covariance).max() / np.abs(wanted.covariance).max())
    assert errors[0] < 0.05
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)


@pytest.mark.statistical
@pytest.mark.parametrize("solver", ["sscs", "em"])
def test_samples_match_the_table(solver: str, run_seed: int) -> None:
    """20 000 samples of a short run with a corrector have the mean and standard deviation of the table."""
    sde = SDES["constant"]
    corrector = {"corrector": "ald", "corrector_steps": 2, "snr": 0.3}
    options: dict[str, Any] = {"solver": solver, "steps": 20, "grid": "quadratic", **corrector}
    table = build_table(sde, SolverOptions(**options))
    assert table.nfe == 1 + 19 * 3
    predicted = propagate(table, sde, DATA, prior(sde))
    model = sf.GaussianMixture(sde, [1.0], torch.full((1, 1, 1, 1), DATA[0]), [DATA[1]], is_image=False)
    positions = sf.sample(model, range(20_000), batch_size=20_000, run_seed=run_seed, **options)
    assert_moments(positions, predicted.mean[0], np.sqrt(predicted.covariance[0, 0]))


def test_sscs_does_not_join_half_steps_across_a_corrector() -> None:
    """Each half step has its own row, so that the corrector acts on the state at its own time."""
    sde = replace(SDES["constant"], beta0=0.1, beta1=6.9)
    options = SolverOptions("sscs", 5, "ald", grid="quadratic", snr=1e-9, denoise=False)
    without_corrector = build_table(sde, replace(options, corrector="none"))
    with_corrector = build_table(sde, options)  # the corrector's steps are too small to have an effect
    got, wanted = (propagate(table, sde, DATA, prior(sde)).covariance for table in (with_corrector, without_corrector))
    assert np.allclose(got, wanted, rtol=1e-9)
    assert [row.derive is None for row in with_corrector.rows] == [False, True, False] * 5


@pytest.mark.parametrize(
    ("sde", "options", "sentence"),
    [
        (CLDSDE(), {"solver": "sscs", "corrector": "langevin"}, "'langevin' is not defined on .* 'cld'; choose 'ald'"),
        (CLDSDE(), {"solver": "gddim", "corrector": "ald"}, "only with euler_maruyama, sscs; choose corrector='none'"),
        (VPSDE(), {"solver": "ddim", "corrector": "ald"}, "only with ancestral, euler_maruyama, reverse_diffusion"),
        (CLDSDE(objective="dsm"), {"solver": "sscs", "corrector": "ald"}, "use a model trained with 'hsm'"),
        (CLDSDE(friction=0.4), {"solver": "sscs", "corrector": "ald"}, "friction 0.4 is under-damped"),
        (CLDSDE(), {"solver": "sscs", "corrector": "ald", "snr": 0.0}, "snr is 0.0"),
    ],
)
def test_bad_correctors_are_refused(sde: SDE, options: dict[str, Any], sentence: str) -> None:
    """Building the table raises an error that says what is allowed."""
    with pytest.raises(ValueError, match=sentence):
        build_table(sde, SolverOptions(**{"steps": 20, **options}))


def test_annealed_langevin_with_a_network() -> None:
    """On "digits-cld", which has a mixed score, pixels are finite and close to the projected gray."""
    model, gray = sf.load("digits-cld"), torch.full((1, 16, 16), 0.3)
    options: dict[str, Any] = {"solver": "sscs", "steps": 6, "corrector": "ald", "snr": 0.3, "grid": "quadratic"}
    images = sf.sample(model, [1, 2], condition=sf.Projection(gray), **options)
    assert images.isfinite().all() and (images.mean(1) - 0.3).abs().max() < 0.3
