# SPDX-License-Identifier: Apache-2.0
"""``hutchinson_dot``: an estimate of a drift's divergence from one Jacobian-vector product with a random probe.

Hutchinson's trace estimator, E[eps . (J eps)] = tr J (Song et al. 2021, appendix D.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from scoresde_fast.ops import checks
from scoresde_fast.ops.registration import define
from scoresde_fast.ops.step_table import DOT, DOT_WIDTH, read_row
from scoresde_fast.rng import random_signs, standard_normals

Probe = Literal["rademacher", "normal"]


def hutchinson_dot(
    divergence: Tensor,
    tangent: Tensor,
    sample_ids: Tensor,
    coefficients: Tensor,
    row: int = 0,
    *,
    counter: Tensor | None = None,
    draw: int = 0,
    probe: Probe = "rademacher",
    run_seed: int = 0,
    precise: bool = False,
    implementation: Callable[..., None] | None = None,
) -> None:
    """Add constant + factor (eps . tangent) to ``divergence``, in place; eps is recomputed from its seeds.

    For tangent = J eps with the network's Jacobian J, let ``factor`` be the network's coefficient in the drift and
    ``constant`` the divergence of the drift's linear part, both times the step's weight.  Then ``divergence``
    accumulates the integral of the drift's divergence.

    Args:
        divergence: (B,) float64.
        tangent: (B, ...) float32, bfloat16 or float16, contiguous.
        sample_ids: (B,) int64.
        coefficients: (rows, 2) float32, see `scoresde_fast.ops.step_table.DotColumns`.
        row, counter, run_seed, precise, implementation: as in `affine_step`.
        draw: index of the probe's noise draw within the run.
        probe: "rademacher" or "normal", the operation that generates eps.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    checks.require_contiguous("divergence", divergence, [torch.float64])
    checks.require_contiguous("tangent", tangent, checks.FLOAT_DTYPES)
    checks.require_device("tangent", tangent, "divergence", divergence)
    checks.require_sample_ids(sample_ids, "tangent", tangent)
    if divergence.shape != (len(tangent),):
        raise ValueError(
            f"divergence has shape {tuple(divergence.shape)}; it must be ({len(tangent)},), one per sample"
        )
    checks.require_dtype("coefficients", coefficients, [torch.float32])
    checks.require_step(coefficients, DOT_WIDTH, row, counter, run_seed, "divergence", divergence)
    checks.require_unsigned("draw", draw, 32)
    checks.require_choice("probe", probe, get_args(Probe))
    (implementation or torch.ops.scoresde_fast.hutchinson_dot.default)(
        divergence, tangent, sample_ids, coefficients, counter, row, draw, probe == "rademacher",
        checks.signed64(run_seed), precise,
    )  # fmt: skip


def _reference(
    divergence: Tensor,
    tangent: Tensor,
    sample_ids: Tensor,
    coefficients: Tensor,
    counter: Tensor | None,
    offset: int,
    draw: int,
    signs: bool,
    run_seed: int,
    precise: bool,
) -> None:
    row = read_row(coefficients, counter, offset)
    wide = torch.promote_types(tangent.dtype, torch.float32)
    eps = (random_signs if signs else standard_normals)(sample_ids, run_seed, draw, tangent[0:1].numel())
    dot = (eps.to(wide) * tangent.flatten(1).to(wide)).sum(1)
    divergence += row[DOT.constant].double() + row[DOT.factor].double() * dot.double()


operation = define(
    "hutchinson_dot(Tensor(a!) divergence, Tensor tangent, Tensor sample_ids, Tensor coefficients, Tensor? counter, "
    "int offset, int draw, bool signs, int run_seed, bool precise) -> ()",
    _reference,
)
