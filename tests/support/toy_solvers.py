# SPDX-License-Identifier: Apache-2.0
"""Toy data with exact scores on VE, VP and sub-VP, and runs of solvers on it."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, arange

from scoresde_fast.loop.evaluator import PlainNetwork
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import SDE, VESDE, VPSDE, Array, DiscretisedSDE, ScalarSDE, SubVPSDE
from scoresde_fast.solvers import SOLVERS, Row, SolverOptions, StepTable, build_table, make_grid
from scoresde_fast.solvers.exact_moments import Gaussian, marginal, propagate
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, time_of
from tests.support import chance

MEAN, STD = 0.3, 0.5
SDE_OF: dict[str, DiscretisedSDE] = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE()}
EPS = 0.01
FAST = [entry for entry in SOLVERS.values() if not entry.published and isinstance(SDE_OF["vp"], entry.sdes)]
STEPS = 6
X = np.linspace(-1.5, 2.0, 7)


class Mixture:
    """Two Gaussians on a line: weights, means and standard deviations of the data."""

    weights, means, stds = np.array([0.4, 0.6]), np.array([-0.5, 0.7]), np.array([0.35, 0.45])

    def score(self, sde: ScalarSDE, x: Array, t: float) -> Array:
        """Return the exact score (n,) at x (n,)."""
        scale, std = sde.marginal(t)
        variances, offsets = (scale * self.stds) ** 2 + std**2, x[:, None] - scale * self.means
        densities = self.weights / np.sqrt(variances) * np.exp(-(offsets**2) / (2 * variances))
        return -(densities * offsets / variances).sum(1) / densities.sum(1)

    def run(self, sde: ScalarSDE, table: StepTable, x: Array, normals: Array | None = None) -> Array:
        """Return the states after all rows of a table, in float64.

        ``normals`` (draws, n) is the noise of the rows that draw some, in order; without it no row may.
        """
        saved = x
        derived: list[Array] = []
        remaining = iter([] if normals is None else normals)
        for row in table.rows:
            assert isinstance(row, Row)
            if row.derive is not None:
                derived = [row.derive[0] * x + row.derive[1] * self.score(sde, x, row.t), *derived]
            after = row.state * x + row.saved * saved + sum(w * d for w, d in zip(row.outputs, derived, strict=False))
            if row.has_noise:
                after = after + row.noise * next(remaining)
            x, saved, derived = after, x if row.save else saved, derived[row.forget :]
        assert next(remaining, None) is None
        return x


def order_of(sizes: tuple[int, ...], errors: list[float]) -> float:
    """Return the order of convergence, by regression over numbers of steps."""
    return float(-np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def error_in_moments(sde: ScalarSDE, options: SolverOptions, end: float = EPS) -> float:
    """Return the error in mean plus that in std at ``end``, after a run from the exact distribution at T."""
    got = propagate(build_table(sde, options), sde, (MEAN, STD), marginal(sde, sde.T, MEAN, STD))
    wanted = marginal(sde, end, MEAN, STD)
    std_error = np.sqrt(got.covariance[0, 0]) - np.sqrt(wanted.covariance[0, 0])
    return float(abs(got.mean[0] - wanted.mean[0]) + abs(std_error))


def rows_of(sde: ScalarSDE, solver: str, **options: Any) -> list[Row]:
    """Return the rows of a run on a nonuniform grid, without denoising."""
    chosen: dict[str, Any] = {"grid": "sqrt", "denoise": False, "eps": 0.01, **options}
    return [row for row in build_table(sde, SolverOptions(solver, STEPS, **chosen)).rows if isinstance(row, Row)]


def schedule_of(sde: ScalarSDE) -> NoiseSchedule:
    """Return the noise schedule at the edges of the grid of `rows_of`."""
    return NoiseSchedule.at(sde, make_grid("sqrt", sde, STEPS, 0.01).edges)


def one_step(row: Row) -> tuple[float, float, float]:
    """Return the coefficients of x, score and noise in a row that uses no history."""
    assert row.derive is not None and not np.any(row.outputs[1:])
    return row.state + row.outputs[0] * row.derive[0], row.outputs[0] * row.derive[1], row.noise


def data_prediction(sde: ScalarSDE, schedule: NoiseSchedule, i: int, x: Array) -> Array:
    """Return E[x(0) | x] of the mixture at edge ``i``."""
    score = Mixture().score(sde, x, schedule.times[i])
    return (x + schedule.std[i] ** 2 * score) / schedule.scale[i]


def slope_in_s(sde: ScalarSDE, y: Array, s: float) -> Array:
    """Return e = -std score of the mixture at x = scale y, the slope of y = x / scale in s = std / scale."""
    schedule = NoiseSchedule.at(sde, time_of(sde, np.array([s]), 1e-4, sde.T))
    return -schedule.std * Mixture().score(sde, schedule.scale * y, float(schedule.times[0]))


def sample(sde: SDE, table: StepTable, run_seed: int, shape: tuple[int, ...]) -> Tensor:
    """Return 20 000 samples of Gaussian data, with Langevin norms over the batch."""
    model = GaussianMixture.gaussian(sde, MEAN, STD, shape)
    noise = Noise(run_seed, arange(20_000))
    prior = model.prior(noise.normal(0, shape))
    program = Program.of_model(model, table, "cpu")
    evaluate, backends = PlainNetwork(model.network, program.labels), StepBackends.choose("cpu")
    return Loop(program, evaluate, backends, run_seed, langevin_norm="batch").run(prior, noise)


def assert_prediction(x: Tensor, predicted: Gaussian) -> None:
    """Assert that ``x`` has the predicted mean and standard deviation."""
    chance.assert_moments(x, predicted.mean[0], np.sqrt(predicted.covariance[0, 0]))
