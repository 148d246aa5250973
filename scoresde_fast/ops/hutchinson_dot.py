# SPDX-License-Identifier: Apache-2.0
"""``hutchinson_dot``: the divergence of a drift, from one product of its Jacobian with a random probe.

Hutchinson's estimate of the trace, E[eps . (J eps)] = tr J (Song et al. 2021, appendix D.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from scoresde_fast.ops import checks
from scoresde_fast.ops.registration import define
from scoresde_fast.ops.step_table import DOT, DOT_WIDTH
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
    """Add constant + factor (eps . tangent) to ``divergence``, in place; eps is recomputed, not read.

    With tangent = J eps for the network's Jacobian J, ``factor`` its coefficient in the drift and ``constant`` the
    known divergence of the drift's linear part, each times the step's weight, this accumulates the integral of the
    drift's divergence.

    Args:
        divergence: (B,) float64.
        tangent: (B, ...) float32, bfloat16 or float16, contiguous.
        sample_ids: (B,) int64.
        coefficients: (rows, 2) float32, by `scoresde_fast.ops.step_table.DotColumns`.
        row, counter, run_seed, precise, implementation: as in `affine_step`.
        draw: the number of the probe's field in the run.
        probe: "rademacher" or "normal"; the field of the operation of that name.

    Raises:
        TypeError, ValueError: a dtype, shape, stride, device, row, draw or seed is not as above.
    """
    checks.require_dtype("divergence", divergence, [torch.float64])
    checks.require_contiguous("divergence", divergence)
    checks.require_dtype("tangent", tangent, checks.FLOAT_DTYPES)
    checks.require_contiguous("tangent", tangent)
    checks.require_device("tangent", tangent, "divergence", divergence)
    checks.require_sample_ids(sample_ids, "tangent", tangent)
    if divergence.shape != (len(tangent),):
        raise ValueError(f"divergence has shape {tuple(divergence.shape)}; one number a sample is ({len(tangent)},)")
    checks.require_device("coefficients", coefficients, "divergence", divergence)
    checks.require_dtype("coefficients", coefficients, [torch.float32])
    if coefficients.ndim != 2 or coefficients.shape[1] != DOT_WIDTH:
        raise ValueError(f"coefficients have shape {tuple(coefficients.shape)}; they must be (rows, {DOT_WIDTH})")
    checks.require_unsigned("draw", draw, 32)
    checks.require_unsigned("run seed", run_seed, 64)
    checks.require_choice("probe", probe, get_args(Probe))
    checks.require_row(len(coefficients), counter, row)
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
    index = 0 if counter is None else counter.long()
    row = coefficients[(torch.as_tensor(index + offset).clamp(max=len(coefficients) - 1)).reshape(())]
    wide = torch.promote_types(tangent.dtype, torch.float32)
    field = (random_signs if signs else standard_normals)(sample_ids, run_seed, draw, tangent[0:1].numel())
    dot = (field.to(wide) * tangent.flatten(1).to(wide)).sum(1)
    divergence += row[DOT.constant].double() + row[DOT.factor].double() * dot.double()


operation = define(
    "hutchinson_dot(Tensor(a!) divergence, Tensor tangent, Tensor sample_ids, Tensor coefficients, Tensor? counter, "
    "int offset, int draw, bool signs, int run_seed, bool precise) -> ()",
    _reference,
)
