# SPDX-License-Identifier: Apache-2.0
"""``langevin``: a step of the Langevin corrector, with a step size from the norms of score and noise.

Song et al. 2021, algorithms 4 and 5.  A GPU runs ``langevin_norms`` (|score|^2 and |noise|^2 of each sample) and then
``langevin_step``; both generate the row's noise.  A CPU generates the noise once and stores it, which costs less there
than generating it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from scoresde_fast.ops import checks
from scoresde_fast.ops.affine_step import row_noise
from scoresde_fast.ops.registration import define
from scoresde_fast.ops.step_table import COLUMNS, WIDTH, DeviceTable

LangevinNorm = Literal["sample", "batch"]


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
    """Replace the state by state + e score + sqrt(2 e) noise, where e = factor (|noise| / |score|)^2.

    Args:
        state: (B, ...) float32, contiguous.
        network_output: like ``state``, float32, bfloat16 or float16; the score is ``derive_output`` times it.
        sample_ids: (B,) int64.
        norm: "batch" averages the samples' norms over the batch, as published; "sample" uses the norms of each sample,
            so that a sample does not depend on its batch.
        table, row, counter, run_seed, precise, implementation: as in `affine_step`; the table's column ``langevin``
            holds the factor 2 alpha snr^2.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    checks.require_contiguous("state", state, [torch.float32, torch.float64])
    checks.require_like("network_output", network_output, checks.FLOAT_DTYPES, "state", state)
    checks.require_choice("norm", norm, get_args(LangevinNorm))
    checks.require_sample_ids(sample_ids, "state", state)
    checks.require_step(table.coefficients, WIDTH, row, counter, run_seed, "state", state)
    (implementation or torch.ops.scoresde_fast.langevin.default)(
        state, network_output, sample_ids, table.coefficients, table.control, counter, row, norm == "sample",
        checks.signed64(run_seed), precise,
    )  # fmt: skip


def _norms_reference(
    network_output: Tensor,
    sample_ids: Tensor,
    coefficients: Tensor,
    control: Tensor,
    counter: Tensor | None,
    offset: int,
    run_seed: int,
    precise: bool,
) -> Tensor:
    row, integers = DeviceTable(coefficients, control).row(counter, offset)
    wide = torch.promote_types(network_output.dtype, torch.float32)
    score = row[COLUMNS.derive_output].to(wide) * network_output.to(wide)
    noise = row_noise(score, sample_ids, run_seed, integers)
    return torch.stack([score.square().flatten(1).sum(1), noise.square().flatten(1).sum(1)], dim=1)


def _norms_fake(network_output: Tensor, *_row: Any) -> Tensor:
    wide = torch.promote_types(network_output.dtype, torch.float32)
    return network_output.new_empty((network_output.shape[0], 2), dtype=wide)


def _step_reference(
    state: Tensor,
    network_output: Tensor,
    norms: Tensor,
    sample_ids: Tensor,
    coefficients: Tensor,
    control: Tensor,
    counter: Tensor | None,
    offset: int,
    per_sample: bool,
    run_seed: int,
    precise: bool,
) -> None:
    row, integers = DeviceTable(coefficients, control).row(counter, offset)
    row = row.to(state.dtype)
    score_norm, noise_norm = norms.to(state.dtype).sqrt().unbind(1)
    if not per_sample:
        score_norm, noise_norm = score_norm.mean(), noise_norm.mean()
    size = row[COLUMNS.langevin] * (noise_norm / score_norm).square()
    size = size.expand(len(state)).reshape(-1, *[1] * (state.ndim - 1))
    score = row[COLUMNS.derive_output] * network_output.to(state.dtype)
    noise = row_noise(state, sample_ids, run_seed, integers)
    state.copy_(state + size * score + (2 * size).sqrt() * noise)


def _reference(state: Tensor, network_output: Tensor, *arguments: Any) -> None:
    *row, per_sample, run_seed, precise = arguments
    norms = norms_operation.reference(network_output.to(state.dtype), *row, run_seed, precise)
    step_operation.reference(state, network_output, norms, *row, per_sample, run_seed, precise)


_ROW = "Tensor sample_ids, Tensor coefficients, Tensor control, Tensor? counter, int offset"
norms_operation = define(
    f"langevin_norms(Tensor network_output, {_ROW}, int run_seed, bool precise) -> Tensor",
    _norms_reference,
    _norms_fake,
)
step_operation = define(
    f"langevin_step(Tensor(a!) state, Tensor network_output, Tensor norms, {_ROW}, bool per_sample, int run_seed, "
    "bool precise) -> ()",
    _step_reference,
)
operation = define(
    f"langevin(Tensor(a!) state, Tensor network_output, {_ROW}, bool per_sample, int run_seed, bool precise) -> ()",
    _reference,
)
