# SPDX-License-Identifier: Apache-2.0
"""``langevin_norms``: what the Langevin corrector must know before it can step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.ops import checks
from scoresde_fast.ops.affine_step import row_noise
from scoresde_fast.ops.library import define
from scoresde_fast.ops.step_table import COLUMNS, DeviceTable

SCHEMA = (
    "langevin_norms(Tensor network_output, Tensor sample_ids, Tensor coefficients, Tensor control, "
    "Tensor? counter, int offset, int run_seed, bool precise) -> Tensor"
)


def _reference(
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


def _fake(network_output: Tensor, *_arguments: Any) -> Tensor:
    wide = torch.promote_types(network_output.dtype, torch.float32)
    return network_output.new_empty((network_output.shape[0], 2), dtype=wide)


operation = define(SCHEMA, _reference, _fake)


def langevin_norms(
    network_output: Tensor,
    sample_ids: Tensor,
    table: DeviceTable,
    row: int = 0,
    *,
    counter: Tensor | None = None,
    run_seed: int = 0,
    precise: bool = False,
    implementation: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Each sample's sums of squares of the score and of the row's noise, which is made and forgotten.

    Args:
        network_output: (B, ...) float32, bfloat16 or float16, contiguous; times ``derive_output`` it is the score.
        sample_ids: (B,) int64.
        table, row, counter, run_seed, precise, implementation: as in `affine_step`.

    Returns:
        (B, 2) float32: [|score|^2, |noise|^2]; the same bits every time.

    Raises:
        TypeError, ValueError: a dtype, shape, stride, device, row or seed is not as above.
    """
    require_score(network_output, sample_ids, table, row, counter, run_seed)
    return (implementation or torch.ops.scoresde_fast.langevin_norms.default)(
        network_output, sample_ids, table.coefficients, table.control, counter, row, checks.signed64(run_seed), precise
    )


def require_score(
    network_output: Tensor, sample_ids: Tensor, table: DeviceTable, row: int, counter: Tensor | None, run_seed: int
) -> None:
    """Raises unless the arguments that both Langevin operations share are in order."""
    checks.require_dtype("network_output", network_output, (*checks.NETWORK_DTYPES, torch.float64))
    checks.require_contiguous("network_output", network_output)
    checks.require_sample_ids(sample_ids, len(network_output))
    checks.require_device("sample_ids", sample_ids, "network_output", network_output)
    checks.require_device("the step table", table.coefficients, "network_output", network_output)
    checks.require_unsigned("run seed", run_seed, 64)
    checks.require_row(len(table.coefficients), counter, row)
