# SPDX-License-Identifier: Apache-2.0
"""How far chance moves a number: what it is of images drawn again from the same ones (Efron 1979)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

KERNEL_MOST = 10_000
"""Rows between which a kernel is computed; of more, so many are drawn, and the spread is scaled to all."""
BLOCK = 2000


def bootstrap(rows: Tensor, of: Callable[[Tensor], float], resamples: int, seed: int) -> float | None:
    """The standard deviation of ``of`` over ``resamples`` sets of as many rows, drawn with replacement.

    None where there are fewer than two resamples.
    """
    if resamples < 2:
        return None
    random = np.random.default_rng(seed)
    drawn = [torch.from_numpy(random.integers(len(rows), size=len(rows))) for _ in range(resamples)]
    return float(np.std([of(rows[index]) for index in drawn], ddof=1))


def kid_spread(features: Tensor, reference: Tensor, resamples: int, seed: int) -> float:
    """The standard deviation over resampled ``features`` (N, D) of the unbiased MMD^2 to ``reference`` (M, D).

    The kernel is KID's, (x y / D + 1)^3 (Binkowski et al. 2018).  It is computed once: a resample only weighs its rows,
    and pairs of one image with itself count in none.
    """
    random = np.random.default_rng(seed)
    x, y = (rows[torch.from_numpy(random.permutation(len(rows))[:KERNEL_MOST])] for rows in (features, reference))
    count = len(x)
    weights = torch.from_numpy(random.multinomial(count, np.full(count, 1 / count), size=resamples)).double().T
    within = torch.zeros(resamples, dtype=torch.float64)
    across = torch.zeros(resamples, dtype=torch.float64)
    for start in range(0, count, BLOCK):
        block, weight = x[start : start + BLOCK], weights[start : start + BLOCK]
        kernel = _kernel(block, x)
        kernel[range(len(block)), range(start, start + len(block))] = 0
        within += (weight * (kernel @ weights)).sum(0)
        across += weight.T @ _kernel(block, y).mean(1)
    values = within / (count**2 - (weights**2).sum(0)) - 2 * across / count
    return float(values.std()) * math.sqrt(count / len(features))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1).double() ** 3
