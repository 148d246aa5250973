# SPDX-License-Identifier: Apache-2.0
"""How noisy the known part of a state must be after each row of a run: that of the time that the next row begins at."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from scoresde_fast.loop.condition import RunContext
from scoresde_fast.ops.project import LEVEL_WIDTH, LEVELS
from scoresde_fast.sdes import CLDSDE, SDE, Array, ScalarSDE
from scoresde_fast.solvers import find_solver


def marginal_levels(sde: SDE, times: Array) -> Array:
    """(n, 5) by `LevelColumns`: the kernel x(t) | x(0) at ``times`` (n,).

    On CLD it is that of the pair, with the initial velocity N(0, gamma M) integrated out (Dockhorn et al. 2022,
    appendix): position and velocity are drawn together.
    """
    levels = np.zeros((len(times), LEVEL_WIDTH))
    if isinstance(sde, CLDSDE):
        whole = replace(sde, objective="hsm")
        mean, factor = whole.marginal(times).mean, whole.cholesky(times)
        levels[:, LEVELS.scale], levels[:, LEVELS.velocity_scale] = mean[:, 0, 0], mean[:, 1, 0]
        levels[:, LEVELS.noise] = factor[:, 0, 0]
        levels[:, LEVELS.velocity_noise_x], levels[:, LEVELS.velocity_noise_v] = factor[:, 1, 0], factor[:, 1, 1]
        return levels
    assert isinstance(sde, ScalarSDE)
    levels[:, LEVELS.scale], levels[:, LEVELS.noise] = sde.marginal(times)
    return levels


def data_level(sde: SDE) -> Array:
    """(1, 5): what is known as it is; on CLD with a velocity N(0, gamma M)."""
    levels = np.zeros((1, LEVEL_WIDTH))
    levels[0, LEVELS.scale] = 1
    if isinstance(sde, CLDSDE):
        levels[0, LEVELS.velocity_noise_v] = math.sqrt(sde.gamma * sde.mass)
    return levels


def run_levels(run: RunContext) -> Array:
    """(rows + 1, 5): the level at the start and after each row.

    With denoising the last one is the data's own, else that of the time at which sampling stops.
    """
    sde, options = run.model.sde, run.options
    levels = marginal_levels(sde, run.table.times)
    eps = sde.sampling_eps if options.eps is None else options.eps
    return np.concatenate([levels, data_level(sde) if options.denoise else marginal_levels(sde, np.array([eps]))])


def original_levels(run: RunContext) -> Array:
    """The same as in the original program, whose predictor leaves the known part at the time that it comes from.

    Without a corrector its projection comes all the same, before the next predictor, and at its time.  In the end the
    known part is the mean of the last time.

    Raises:
        ValueError: the original has no such run.
    """
    sde, options = run.model.sde, run.options
    found = find_solver(options.predictor, sde, probability_flow=options.probability_flow)
    if not (found.published and isinstance(sde, ScalarSDE)):
        raise ValueError(
            f"original=True is what the original program does, which has no solver {options.solver!r} on the SDE "
            f"{sde.name!r}; leave it out, or choose 'pc', 'euler_maruyama', 'reverse_diffusion' or 'ancestral'"
        )
    if options.denoise:
        raise ValueError(
            "original=True keeps the noise of the last step outside the known part, as the original program does; "
            "choose denoise=False with it"
        )
    levels = marginal_levels(sde, run.table.times)
    last = levels[-1:] * (np.arange(LEVEL_WIDTH) == LEVELS.scale)
    if corrects(run):
        return np.concatenate([data_level(sde), levels[:-1], last])
    return np.concatenate([levels, last])


def corrects(run: RunContext) -> bool:
    """Whether the run has a corrector."""
    return run.options.paired_corrector != "none"
