# SPDX-License-Identifier: Apache-2.0
"""``langevin``: a whole step of the Langevin corrector, norms and update as one operation.

A GPU makes the noise in both, by `langevin_norms` and `langevin_step`; a CPU, where making it costs more than keeping
it, makes it once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor

from scoresde_fast.ops import checks
from scoresde_fast.ops.langevin_norms import operation as norms_operation
from scoresde_fast.ops.langevin_norms import require_score
from scoresde_fast.ops.langevin_step import LangevinNorm
from scoresde_fast.ops.langevin_step import operation as step_operation
from scoresde_fast.ops.library import define
from scoresde_fast.ops.step_table import DeviceTable

SCHEMA = (
    "langevin(Tensor(a!) state, Tensor network_output, Tensor sample_ids, Tensor coefficients, Tensor control, "
    "Tensor? counter, int offset, bool per_sample, int run_seed, bool precise) -> ()"
)


def _reference(
    state: Tensor,
    network_output: Tensor,
    sample_ids: Tensor,
    coefficients: Tensor,
    control: Tensor,
    counter: Tensor | None,
    offset: int,
    per_sample: bool,
    run_seed: int,
    precise: bool,
) -> None:
    row = (sample_ids, coefficients, control, counter, offset)
    norms = norms_operation.reference(network_output.to(state.dtype), *row, run_seed, precise)
    step_operation.reference(state, network_output, norms, *row, per_sample, run_seed, precise)


def _fake(state: Tensor, *_arguments: Any) -> None:
    return None


operation = define(SCHEMA, _reference, _fake)


def langevin(
    state: Tensor,
    network_output: Tensor,
    sample_ids: Tensor,
    table: DeviceTable,
    row: int = 0,
    *,
    counter: Tensor | None = None,
    norm: LangevinNorm = "sample",
    run_seed: int = 0,
    precise: bool = False,
    implementation: Callable[..., None] | None = None,
) -> None:
    """state + e score + sqrt(2 e) noise, e = factor (|noise| / |score|)^2, in place.

    Song et al. 2021, algorithms 4 and 5.  Arguments and errors are those of
    `scoresde_fast.ops.langevin_step.langevin_step`, which also wants the norms that this operation finds.
    """
    checks.require_dtype("state", state, [torch.float32, torch.float64])
    checks.require_contiguous("state", state)
    checks.require_like("network_output", network_output, "state", state)
    checks.require_choice("norm", norm, get_args(LangevinNorm))
    require_score(network_output, sample_ids, table, row, counter, run_seed)
    (implementation or torch.ops.scoresde_fast.langevin.default)(
        state, network_output, sample_ids, table.coefficients, table.control, counter, row, norm == "sample",
        checks.signed64(run_seed), precise,
    )  # fmt: skip
