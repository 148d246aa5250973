# SPDX-License-Identifier: Apache-2.0
"""SSCS, the symmetric splitting of CLD's reverse SDE (Dockhorn et al. 2022, section 3.2 and appendix D).

The reverse drift is split into an Ornstein-Uhlenbeck and Hamiltonian part, solved exactly, and what the score adds to
that of the stationary distribution.  A step of the first part by half, the second, and the first by half again: the
last of one step and the first of the next are together one Gaussian kernel, and so one row.
"""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import CLDSDE, SDE, Array
from scoresde_fast.sdes.pairs import cholesky
from scoresde_fast.solvers.euler_maruyama import euler_mean
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import IDENTITY, AnyRow, PairRow

FLIP = np.diag([-1.0, 1.0])
"""Backwards in time the exactly solved part is the forward one with the position turned round."""


@solver(
    "sscs",
    sdes=(CLDSDE,),
    probability_flow=False,
    source="Dockhorn et al. 2022, section 3.2",
    finish=euler_mean,
    correctable=True,
)
def sscs(
    sde: SDE, grid: TimeGrid, *, probability_flow: bool, original: bool = False, joined: bool = True
) -> list[AnyRow]:
    """Half a step of the exact part, v <- v + 2 Gamma (s_v + v / M) clock, half a step of the exact part.

    ``clock`` is the integral of beta over the step.  With ``original`` every half step is a row of its own, and beta is
    taken as in the original program: the second half step takes that of the first, the score step beta(t) dt.
    """
    assert isinstance(sde, CLDSDE)
    middles = grid.times - grid.dt / 2
    first = sde.clock(middles, grid.times)
    second = first if original else sde.clock(grid.ends, middles)
    clock = sde.beta(grid.times) * grid.dt if original else first + second
    if original or not joined:
        return unmerged(sde, grid.times, first, clock, second)
    # between two evaluations: the end of one step and the beginning of the next
    between = second + np.append(first[1:], 0.0)
    return [*_exact(sde, grid.times[:1], first[:1]), *_score_then_exact(sde, grid.times, clock, between)]


def unmerged(sde: CLDSDE, times: Array, first: Array, clock: Array, second: Array) -> list[AnyRow]:
    """The same with a draw for each half step, as published: two rows a step."""
    before, after = _exact(sde, times, first), _score_then_exact(sde, times, clock, second)
    return [row for step in zip(before, after, strict=True) for row in step]


def _kernels(sde: CLDSDE, clocks: Array) -> tuple[Array, Array]:
    """The exactly solved part for the times ``clocks`` (n,): mean matrices and the noise's factors, (n, 2, 2) each."""
    mean, covariance = sde.advance(clocks)
    return FLIP @ mean @ FLIP, cholesky(FLIP @ covariance @ FLIP)


def _exact(sde: CLDSDE, times: Array, clocks: Array) -> list[PairRow]:
    columns = zip(times, *_kernels(sde, clocks), strict=True)
    return [PairRow(t, derive=None, state=mean, noise=factor) for t, mean, factor in columns]


def _score_then_exact(sde: CLDSDE, times: Array, gains: Array, clocks: Array) -> list[PairRow]:
    rows = []
    for t, gain, mean, factor in zip(times, gains, *_kernels(sde, clocks), strict=True):
        kick = 2 * sde.damping * gain
        pulled = IDENTITY + np.diag([0.0, kick * sde.m_inv])
        rows.append(PairRow(t, state=mean @ pulled, outputs=(kick * mean,), noise=factor))
    return rows
