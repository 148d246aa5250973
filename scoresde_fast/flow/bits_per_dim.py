# SPDX-License-Identifier: Apache-2.0
"""From log densities to bits per dimension, and CLD's bound on them."""

from __future__ import annotations

import math

from torch import Tensor

from scoresde_fast.sdes import CLDSDE

LEVELS = 256
"""Of 8-bit data, to which uniform noise of one level's width was added."""


def bits_per_dimension(log_density: Tensor, dimensions: int, *, centered: bool) -> Tensor:
    """Negative log-likelihood (B,) of 8-bit images in bits per dimension, from the log density (B,) in nats.

    The density is that of dequantised images scaled to [0, 1], or with ``centered`` to [-1, 1]: the offset log2 of the
    levels in a unit is 8, or 7 (Song et al. 2021, appendix D).
    """
    levels_per_unit = LEVELS / (2 if centered else 1)
    return math.log2(levels_per_unit) - log_density / (dimensions * math.log(2))


def position_log_density_bound(joint_log_density: Tensor, sde: CLDSDE, dimensions: int) -> Tensor:
    """A lower bound on log p(x(0)) (B,) from E[log p(u(0))] (B,) over v(0) ~ N(0, gamma M), both in nats.

    log p(x) = log E_v[p(x, v) / q(v)] >= E_v[log p(x, v)] + H(q) by Jensen (Dockhorn et al. 2022, appendix).
    """
    return joint_log_density + sde.velocity_entropy(dimensions)
