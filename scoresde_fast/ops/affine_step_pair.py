# SPDX-License-Identifier: Apache-2.0
"""``affine_step_pair``: a row of a step table on pairs (x, v), for critically-damped Langevin diffusion.

Dockhorn et al. 2022: the state holds x in the first half of its channels and v in the other; every coefficient is a 2x2
matrix, the noise's the Cholesky factor of a covariance.  See `scoresde_fast.ops.step_table.PairColumns`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.ops import checks
from scoresde_fast.ops.affine_step import require_registers, row_noise
from scoresde_fast.ops.library import define
from scoresde_fast.ops.step_table import CONTROL, PAIR_COLUMNS, PAIR_WIDTH, DeviceTable

SCHEMA = (
    "affine_step_pair(Tensor(a!) state, Tensor(b!)? saved, Tensor(c!)? history, Tensor? network_output, "
    "Tensor? sample_ids, Tensor coefficients, Tensor control, Tensor? counter, int offset, int earlier, "
    "int run_seed, bool precise) -> ()"
)


def _act(matrix: Tensor, pair: Tensor) -> Tensor:
    """The 2x2 ``matrix`` (4,) on the halves of ``pair`` (B, 2C, ...)."""
    x, v = pair.chunk(2, dim=1)
    return torch.cat([matrix[0] * x + matrix[1] * v, matrix[2] * x + matrix[3] * v], dim=1)


def _reference(
    state: Tensor,
    saved: Tensor | None,
    history: Tensor | None,
    network_output: Tensor | None,
    sample_ids: Tensor | None,
    coefficients: Tensor,
    control: Tensor,
    counter: Tensor | None,
    offset: int,
    earlier: int,
    run_seed: int,
    precise: bool,
) -> None:
    columns = PAIR_COLUMNS
    row, integers = DeviceTable(coefficients, control).row(counter, offset)
    row = row.to(state.dtype)
    result = _act(row[columns.state : columns.state + 4], state)
    if saved is not None:
        result += _act(row[columns.saved : columns.saved + 4], saved)
    output = None if network_output is None else network_output.to(state.dtype)
    if output is not None:
        result += torch.cat([row[columns.output] * output, row[columns.output + 1] * output], dim=1)
    slot = int(integers[CONTROL.slot])
    if history is not None:
        for k in range(1, earlier + 1):
            first = columns.earlier1 + 4 * (k - 1)
            result += _act(row[first : first + 4], history[(slot - k) % len(history)])
    if sample_ids is not None:
        xx, vx, vv = row[columns.noise : columns.noise + 3]
        result += _act(torch.stack([xx, 0 * xx, vx, vv]), row_noise(state, sample_ids, run_seed, integers))
    if history is not None and output is not None:
        to_x, to_v = row[columns.derive_output], row[columns.derive_output + 1]
        derived = _act(row[columns.derive_state : columns.derive_state + 4], state)
        history[slot % len(history)].copy_(derived + torch.cat([to_x * output, to_v * output], dim=1))
    if saved is not None and int(integers[CONTROL.save]):
        saved.copy_(state)
    state.copy_(result)


def _fake(state: Tensor, *_arguments: Any) -> None:
    return None


operation = define(SCHEMA, _reference, _fake)


def affine_step_pair(
    state: Tensor,
    table: DeviceTable,
    row: int = 0,
    *,
    counter: Tensor | None = None,
    saved: Tensor | None = None,
    history: Tensor | None = None,
    network_output: Tensor | None = None,
    sample_ids: Tensor | None = None,
    earlier: int = 0,
    run_seed: int = 0,
    precise: bool = False,
    implementation: Callable[..., None] | None = None,
) -> None:
    """Take one step of a pair, in place; the registers that are None are not read, whatever their coefficients.

    Args:
        state: (B, 2C, ...) float32, contiguous; x in the first C channels, v in the others; becomes the next state.
        table: its ``coefficients`` are (rows, 31).
        network_output: (B, C, ...) float32, bfloat16 or float16.
        row, counter, saved, history, sample_ids, earlier, run_seed, precise, implementation: as in `affine_step`; the
            elements of the noise are numbered over the whole pair.

    Raises:
        TypeError, ValueError: a dtype, shape, stride, device, row or seed is not as above.
    """
    checks.require_dtype("state", state, [torch.float32, torch.float64])
    if state.ndim < 2 or state.shape[1] % 2:
        raise ValueError(
            f"state has shape {tuple(state.shape)}; a pair is (B, 2C, ...), with x and v of C channels each"
        )
    require_registers(state, table, PAIR_WIDTH, saved, history, sample_ids, earlier)
    if network_output is not None:
        checks.require_dtype("network_output", network_output, (*checks.NETWORK_DTYPES, state.dtype))
        checks.require_like("network_output", network_output, "half of state", state.chunk(2, dim=1)[0])
        checks.require_contiguous("network_output", network_output)
    checks.require_unsigned("run seed", run_seed, 64)
    checks.require_row(len(table.coefficients), counter, row)
    (implementation or torch.ops.scoresde_fast.affine_step_pair.default)(
        state, saved, history, network_output, sample_ids, table.coefficients, table.control, counter, row, earlier,
        checks.signed64(run_seed), precise,
    )  # fmt: skip
