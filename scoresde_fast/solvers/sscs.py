# SPDX-License-Identifier: Apache-2.0
"""SSCS, a symmetric splitting of CLD's reverse SDE (Dockhorn et al. 2022, section 3.2 and appendix D).

The reverse drift is the sum of two parts.  A, Ornstein-Uhlenbeck and Hamiltonian, has an exact solution.  S contains
the score minus that of the stationary distribution.  A step is half a step of A, a step of S and half a step of A.
The last half of one step and the first half of the next are one Gaussian kernel, and so one row.
"""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import CLDSDE, SDE, Array
from scoresde_fast.sdes.linalg import cholesky
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.predictors import euler_mean
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import IDENTITY, AnyRow, PairRow

FLIP = np.diag([-1.0, 1.0])
"""Part A is the forward process with the position negated."""


@solver(
    "sscs",
    source="Dockhorn et al. 2022, section 3.2",
    sdes=(CLDSDE,),
    grid="quadratic",
    probability_flow=False,
    finish=euler_mean,
    correctable=True,
)
def sscs(
    sde: SDE, grid: TimeGrid, *, probability_flow: bool, original: bool = False, joined: bool = True
) -> list[AnyRow]:
    """Half a step of A, v <- v + 2 Gamma (s_v + v / M) clock, half a step of A; clock is the integral of beta.

    With ``original`` beta is integrated as in the official code: the second half step uses the integral over the first,
    and the step of S uses beta(t) dt.  Each half step is then a row of its own, as with ``joined=False``.
    """
    assert isinstance(sde, CLDSDE)
    middles = grid.times - grid.dt / 2
    first = sde.clock(middles, grid.times)
    second = first if original else sde.clock(grid.ends, middles)
    clock = sde.beta(grid.times) * grid.dt if original else first + second
    if original or not joined:
        before, after = _exact(sde, grid.times, first), _score_then_exact(sde, grid.times, clock, second)
        return [row for step in zip(before, after, strict=True) for row in step]
    between = second + np.append(first[1:], 0.0)
    return [*_exact(sde, grid.times[:1], first[:1]), *_score_then_exact(sde, grid.times, clock, between)]


def _exact(sde: CLDSDE, times: Array, clocks: Array) -> list[PairRow]:
    """Return steps of A over ``clocks`` (n,)."""
    columns = zip(times, *_kernels(sde, clocks), strict=True)
    return [PairRow(t, derive=None, state=mean, noise=factor) for t, mean, factor in columns]


def _score_then_exact(sde: CLDSDE, times: Array, score_clocks: Array, clocks: Array) -> list[PairRow]:
    """Return steps of S over ``score_clocks`` (n,), each followed by A over ``clocks`` (n,)."""
    rows = []
    for t, score_clock, mean, factor in zip(times, score_clocks, *_kernels(sde, clocks), strict=True):
        kick = 2 * sde.damping * score_clock
        pulled = IDENTITY + np.diag([0.0, kick * sde.m_inv])
        rows.append(PairRow(t, state=mean @ pulled, outputs=(kick * mean,), noise=factor))
    return rows


def _kernels(sde: CLDSDE, clocks: Array) -> tuple[Array, Array]:
    """Return the matrices of the mean and the Cholesky factors of the noise of A over ``clocks``, (n, 2, 2) each."""
    mean, covariance = sde.advance(clocks)
    return FLIP @ mean @ FLIP, cholesky(FLIP @ covariance @ FLIP)
