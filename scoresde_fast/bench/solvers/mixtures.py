# SPDX-License-Identifier: Apache-2.0
"""The models whose score is exact: one mixture of Gaussians on a line, under each SDE."""

from __future__ import annotations

import numpy as np
import torch

from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, Array, SubVPSDE

WEIGHTS, MEANS, STD = (0.3, 0.5, 0.2), (-0.8, -0.1, 0.6), 0.05

MIXTURES: dict[str, type[SDE]] = {
    "mixture-ve": VESDE,
    "mixture-vp": VPSDE,
    "mixture-subvp": SubVPSDE,
    "mixture-cld": CLDSDE,
}
"""By name, with the SDE's own noise levels."""


def mixture(name: str) -> GaussianMixture:
    """.3 N(-.8) + .5 N(-.1) + .2 N(.6) of deviation .05 under the SDE of ``name``; a sample is one number."""
    means = torch.tensor(MEANS, dtype=torch.float64).view(-1, 1, 1, 1)
    return GaussianMixture(MIXTURES[name](), WEIGHTS, means, [STD] * len(MEANS), is_image=False)


def quantiles(count: int) -> Array:
    """The mixture's quantiles at (i + 1/2) / count, by bisection to the last bit."""
    wanted = torch.from_numpy((np.arange(count) + 0.5) / count)
    lower, upper = (torch.full_like(wanted, edge) for edge in (min(MEANS) - 12 * STD, max(MEANS) + 12 * STD))
    for _ in range(60):
        middle = (lower + upper) / 2
        below = sum(w * torch.special.ndtr((middle - m) / STD) for w, m in zip(WEIGHTS, MEANS, strict=True)) < wanted
        lower, upper = torch.where(below, middle, lower), torch.where(below, upper, middle)
    found: Array = ((lower + upper) / 2).numpy()
    return found


def exact_draws(count: int, seed: int) -> Array:
    """``count`` draws of the mixture itself."""
    generator = np.random.default_rng(seed)
    draws: Array = generator.choice(MEANS, count, p=WEIGHTS) + STD * generator.normal(size=count)
    return draws
