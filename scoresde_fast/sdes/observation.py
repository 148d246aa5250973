# SPDX-License-Identifier: Apache-2.0
"""What a state tells of its data: a linear map of it that is x(0) plus noise, in float64.

Given x(0) a state is Gaussian, with a mean that is linear in x(0).  So the least-squares estimate of x(0) from the
state alone, x(0) + std z, is a sufficient statistic: whatever the SDE, p(y | x(t)) is a function of it and ``std``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from scoresde_fast.sdes.base import SDE, Array, ScalarSDE, Time, as_times
from scoresde_fast.sdes.cld import CLDSDE


class Observation(NamedTuple):
    """sum_k ``weights[..., k]`` x_k(t) = x(0) + ``std`` z, where x_k are the parts of a state."""

    weights: Array
    std: Array


def observation(sde: SDE, t: Time) -> Observation:
    """The observation at times ``t`` (n,): weights (n, parts) and std (n,).

    On CLD the initial velocity N(0, gamma M) is integrated out, whatever the objective (Dockhorn et al. 2022).
    """
    t = as_times(t)
    if not isinstance(sde, CLDSDE):
        assert isinstance(sde, ScalarSDE)
        scale, std = sde.marginal(t)
        return Observation(1 / scale[..., None], std / scale)
    mean, covariance = replace(sde, objective="hsm").marginal(t)
    mean = mean[..., 0]
    # S^-1 m: the weights of generalised least squares, and what m makes of them is the precision of their sum.
    solved = np.linalg.solve(covariance, mean[..., None])[..., 0]
    precision = (mean * solved).sum(-1)
    return Observation(solved / precision[..., None], precision**-0.5)


def tweedie(sde: SDE, t: Time) -> tuple[Array, Array]:
    """E[x(0) | x(t)] as ``state`` (n, parts) on the parts of the state and ``score`` (n,) on its score.

    Tweedie's formula; on CLD the score is that of the velocity.

    Raises:
        ValueError: on CLD, see `CLDSDE.denoised`.
    """
    if isinstance(sde, CLDSDE):
        state, velocity_score = sde.denoised(t)
        return state, velocity_score
    assert isinstance(sde, ScalarSDE)
    scale, std = sde.marginal(t)
    return 1 / scale[..., None], std**2 / scale
