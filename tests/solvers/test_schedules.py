# SPDX-License-Identifier: Apache-2.0
"""Every solver of images on every schedule: the exact distribution after a run on Gaussian data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scoresde_fast.sdes import EDM, Betas, RectifiedFlow, ScalarSDE, Schedule
from scoresde_fast.solvers import SOLVERS, SolverOptions, build_table
from scoresde_fast.solvers.exact_moments import prior, propagate
from tests.support.toy_solvers import MEAN, STD

SCHEDULES: dict[str, ScalarSDE] = {
    "edm": EDM(),
    "rectified_flow": RectifiedFlow(),
    "functions": Schedule(lambda t: np.cos(1.56 * t), lambda t: np.sin(1.56 * t)),
    "linear": Betas.linear(),
    "scaled_linear": Betas.scaled_linear(),
    "cosine": Betas.cosine(),
}
CASES = [
    (name, solver.name, corrector)
    for name, sde in SCHEDULES.items()
    for solver in SOLVERS.values()
    if isinstance(sde, solver.sdes)
    for corrector in (("none", "langevin", "ald") if solver.correctable else ("none",))
]


@pytest.mark.parametrize(("name", "solver", "corrector"), CASES, ids=["-".join(case) for case in CASES])
def test_distribution(name: str, solver: str, corrector: str) -> None:
    """After 200 steps the mean and the standard deviation are those of the data, within 0.02."""
    sde = SCHEDULES[name]
    options = SolverOptions(solver, 200, grid="logsnr", corrector=corrector)
    end = propagate(build_table(sde, options), sde, (MEAN, STD), prior(sde))
    assert abs(end.mean[0] - MEAN) < 0.02 and abs(np.sqrt(end.covariance[0, 0]) - STD) < 0.02


@pytest.mark.parametrize("restart", [None, ((0.1003, 0.3004, 2, 7),)])
def test_rows_at_the_indices(restart: Any) -> None:
    """With betas every evaluation is at the time of an index, also if a grid is finer than the indices."""
    sde = Betas.linear(100, 1e-3, 0.2)
    options = SolverOptions("dpmpp_2m", 60, grid="logsnr", restart=restart)
    table = build_table(sde, options)
    indices = 100 * table.times - 1
    np.testing.assert_allclose(indices, np.round(indices), atol=1e-9)
    end = propagate(table, sde, (MEAN, STD), prior(sde))
    assert abs(end.mean[0] - MEAN) < 0.02 and abs(np.sqrt(end.covariance[0, 0]) - STD) < 0.02


def test_too_many_steps() -> None:
    """More steps than betas, and a restart whose end is not above eps at the indices, are refused."""
    with pytest.raises(ValueError, match="10 betas, which is too few for 12 different times: take at most 9"):
        build_table(Betas.linear(10, 0.1, 0.9), SolverOptions("ddim", 12, grid="logsnr"))
    with pytest.raises(ValueError, match=r"restart goes from t_min=0.001 to t_max=0.3; it needs eps < t_min"):
        build_table(Betas.linear(), SolverOptions("ddim", 20, restart=((0.0012, 0.3, 1, 5),)))


def test_end_between_indices() -> None:
    """An end between indices is moved to the nearest one, also for the denoising step."""
    table = build_table(Betas.linear(10, 0.01, 0.9), SolverOptions("ddim", 5, grid="logsnr", eps=0.14))
    assert table.times[-1] == pytest.approx(0.1) and (np.diff(table.times) < 0).all()


def test_undefined_solver() -> None:
    """A solver that is not defined on a schedule names those that are."""
    with pytest.raises(ValueError, match=r"not defined on the SDE 'edm', only on 'vesde', 'vpsde'; .*ddim"):
        build_table(EDM(), SolverOptions("ancestral", 10))
