# SPDX-License-Identifier: Apache-2.0
"""The predictors of Song et al. (2021): Euler-Maruyama, reverse diffusion and ancestral sampling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, Array, ScalarSDE
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import IDENTITY, AnyRow, PairRow, Row


def euler_mean(sde: CLDSDE, t: float, dt: float, *, probability_flow: bool = False) -> PairRow:
    """Return the mean of an Euler-Maruyama step on CLD, also used for denoising (Dockhorn et al. 2022, appendix)."""
    gain = (1 if probability_flow else 2) * sde.damping * float(sde.beta(t))
    return PairRow(t, state=IDENTITY - sde.drift(t) * dt, outputs=(gain * dt * IDENTITY,))


@solver(
    "euler_maruyama",
    aliases=("em",),
    source="Song et al. 2021, section 4.1",
    sdes=(ScalarSDE, CLDSDE),
    finish=euler_mean,
    grid="uniform",
    published=True,
    correctable=True,
)
def euler_maruyama(sde: SDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """x <- x - [f(t) x - g(t)^2 score] dt + g(t) sqrt(dt) z; with ``probability_flow`` half the score and no noise."""
    if isinstance(sde, CLDSDE):
        return _euler_maruyama_of_pairs(sde, grid, probability_flow=probability_flow)
    assert isinstance(sde, ScalarSDE)
    drift_x, drift_score, g = sde.reverse(grid.times, probability_flow=probability_flow)
    columns = zip(grid.times, 1 - drift_x * grid.dt, -drift_score * grid.dt, g * np.sqrt(grid.dt), strict=True)
    return [Row(t, state=x, outputs=(score,), noise=noise) for t, x, score, noise in columns]


def _euler_maruyama_of_pairs(sde: CLDSDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    rows: list[AnyRow] = []
    for t, dt in zip(grid.times, grid.dt, strict=True):
        velocity_noise = 0.0 if probability_flow else float(sde.diffusion(t)) * np.sqrt(dt)
        noise: Array = np.diag([0.0, velocity_noise])
        rows.append(replace(euler_mean(sde, t, dt, probability_flow=probability_flow), noise=noise))
    return rows


@solver("reverse_diffusion", source="Song et al. 2021, appendix E", grid="uniform", published=True, correctable=True)
def reverse_diffusion(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """x <- x - f_i x + G_i^2 score + G_i z, which reverses the forward step x + f_i x + G_i z.

    The probability flow takes half the score and no noise.
    """
    f, G = grid.discretise(sde)
    columns = zip(grid.times, 1 - f, G**2, G, strict=True)
    if probability_flow:
        return [Row(t, state=x, outputs=(0.5 * score,)) for t, x, score, _ in columns]
    return [Row(t, state=x, outputs=(score,), noise=noise) for t, x, score, noise in columns]


@solver(
    "ancestral",
    aliases=("ancestral_sampling",),
    source="Song et al. 2021, appendix F; Ho et al. 2020, algorithm 2",
    sdes=(VESDE, VPSDE),
    probability_flow=False,
    grid="uniform",
    published=True,
    correctable=True,
)
def ancestral(sde: ScalarSDE, grid: TimeGrid, *, probability_flow: bool) -> list[AnyRow]:
    """The reverse Markov chains of SMLD and DDPM.

    On VE: x + G^2 score plus the noise of the posterior, where G^2 is the difference of sigma^2 over the step.  On VP:
    (x + beta score) / sqrt(1 - beta) + sqrt(beta) z, with the published noise, which is not the posterior's.
    """
    f, G = grid.discretise(sde)
    if isinstance(sde, VESDE):
        above = sde.sigma(grid.table_times(sde)) ** 2
        below = np.maximum(above - G**2, 0.0)
        x, score, noise = np.ones_like(f), G**2, G * np.sqrt(below / above)
    else:
        forward_scale = 1 + f  # sqrt(1 - beta)
        x, score, noise = 1 / forward_scale, G**2 / forward_scale, G
    columns = zip(grid.times, x, score, noise, strict=True)
    return [Row(t, state=a, outputs=(b,), noise=c) for t, a, b, c in columns]
