# SPDX-License-Identifier: Apache-2.0
"""``rademacher``: random signs for each sample; as probes they give the trace estimate with the least variance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde_fast.ops import checks
from scoresde_fast.ops.normal import fake_field, require_field
from scoresde_fast.ops.registration import define
from scoresde_fast.rng import random_signs


def rademacher(
    sample_ids: Tensor,
    run_seed: int,
    draw: int,
    shape: tuple[int, ...],
    *,
    implementation: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Return independent signs for each sample, (B, *shape) float32, -1 or 1 with equal probability.

    The arguments and errors are those of `scoresde_fast.ops.normal.normal`.
    """
    elements = require_field(sample_ids, run_seed, draw, shape)
    implementation = implementation or torch.ops.scoresde_fast.rademacher.default
    signs = implementation(sample_ids.contiguous(), checks.signed64(run_seed), draw, elements)
    return signs.view(len(sample_ids), *shape)


operation = define(
    "rademacher(Tensor sample_ids, int run_seed, int draw, SymInt elements) -> Tensor", random_signs, fake_field
)
