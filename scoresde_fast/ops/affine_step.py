# SPDX-License-Identifier: Apache-2.0
"""``affine_step``: one row of a step table, the only arithmetic of a fixed-step solver.

From the state x, the saved state s, the network's output o, up to three earlier derived outputs d_k and a normal z
it makes the next state and the newest derived output, as `scoresde_fast.ops.step_table.Columns` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.ops import checks
from scoresde_fast.ops.library import define
from scoresde_fast.ops.step_table import COLUMNS, CONTROL, WIDTH, DeviceTable
from scoresde_fast.rng import WORD, standard_normals

SCHEMA = (
    "affine_step(Tensor(a!) state, Tensor(b!)? saved, Tensor(c!)? history, Tensor? network_output, "
    "Tensor? sample_ids, Tensor coefficients, Tensor control, Tensor? counter, int offset, int earlier, "
    "int run_seed, bool precise) -> ()"
)


def row_noise(state: Tensor, sample_ids: Tensor, run_seed: int, control: Tensor) -> Tensor:
    """The normal field of a row, in the shape and dtype of the state."""
    draw = int(control[CONTROL.draw]) & WORD
    field = standard_normals(sample_ids, run_seed, draw, state[0].numel() if len(state) else 0)
    return field.view(state.shape).to(state.dtype)


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
    row, integers = DeviceTable(coefficients, control).row(counter, offset)
    row = row.to(state.dtype)
    result = row[COLUMNS.state] * state
    if saved is not None:
        result.addcmul_(saved, row[COLUMNS.saved])
    output = None if network_output is None else network_output.to(state.dtype)
    if output is not None:
        result.addcmul_(output, row[COLUMNS.output])
    slot = int(integers[CONTROL.slot])
    if history is not None:
        for k in range(1, earlier + 1):
            result.addcmul_(history[(slot - k) % len(history)], row[COLUMNS.earlier1 + k - 1])
    if sample_ids is not None:
        result.addcmul_(row_noise(state, sample_ids, run_seed, integers), row[COLUMNS.noise])
    if history is not None and output is not None:
        derived = row[COLUMNS.derive_state] * state + row[COLUMNS.derive_output] * output
        history[slot % len(history)].copy_(derived)
    if saved is not None and int(integers[CONTROL.save]):
        saved.copy_(state)
    state.copy_(result)


def _fake(state: Tensor, *_arguments: Any) -> None:
    return None


operation = define(SCHEMA, _reference, _fake)


def affine_step(
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
    """Take one step, in place; the registers that are None are not read, whatever their coefficients.

    Args:
        state: (B, ...) float32, contiguous; becomes the next state.
        table: its ``coefficients`` are (rows, 10).
        row: the row, added to ``counter`` where there is one.
        counter: (1,) int32 or int64 on the state's device.
        saved: like ``state``; replaced by the state before the step where the row says so.
        history: (H, B, ...) float32, the ring of derived outputs, H >= ``earlier``; the newest one is stored in it
            where the network was evaluated.
        network_output: like ``state``, float32, bfloat16 or float16.
        sample_ids: (B,) int64; gives the row its noise.
        earlier: how many earlier derived outputs are read, 0 to 3.
        run_seed: the run's seed, in [0, 2^64).
        precise: on a GPU, normals within 2 ulp of the contract rather than by the faster approximation.
        implementation: what ``operation.choose`` returned; None chooses now.

    Raises:
        TypeError, ValueError: a dtype, shape, stride, device, row or seed is not as above.
    """
    checks.require_dtype("state", state, [torch.float32, torch.float64])
    require_registers(state, table, WIDTH, saved, history, sample_ids, earlier)
    if network_output is not None:
        checks.require_dtype("network_output", network_output, (*checks.NETWORK_DTYPES, state.dtype))
        checks.require_like("network_output", network_output, "state", state)
        checks.require_contiguous("network_output", network_output)
    checks.require_unsigned("run seed", run_seed, 64)
    checks.require_row(len(table.coefficients), counter, row)
    (implementation or torch.ops.scoresde_fast.affine_step.default)(
        state, saved, history, network_output, sample_ids, table.coefficients, table.control, counter, row, earlier,
        checks.signed64(run_seed), precise,
    )  # fmt: skip


def require_registers(
    state: Tensor,
    table: DeviceTable,
    width: int,
    saved: Tensor | None,
    history: Tensor | None,
    sample_ids: Tensor | None,
    earlier: int,
) -> None:
    """Raises unless the registers of a step fit the state."""
    checks.require_contiguous("state", state)
    checks.require_device("the step table", table.coefficients, "state", state)
    if table.coefficients.ndim != 2 or table.coefficients.shape[1] != width:
        raise ValueError(f"coefficients have shape {tuple(table.coefficients.shape)}; this step's are (rows, {width})")
    if saved is not None:
        checks.require_dtype("saved", saved, [state.dtype])
        checks.require_like("saved", saved, "state", state)
        checks.require_contiguous("saved", saved)
    if not 0 <= earlier <= 3:
        raise ValueError(f"earlier is {earlier}; a step reads 0 to 3 earlier outputs")
    if history is not None:
        checks.require_dtype("history", history, [state.dtype])
        checks.require_contiguous("history", history)
        checks.require_device("history", history, "state", state)
        if history.shape[1:] != state.shape or len(history) < max(earlier, 1):
            raise ValueError(
                f"history has shape {tuple(history.shape)}; it must be (H, *state's shape) with H >= {max(earlier, 1)} "
                f"and state is {tuple(state.shape)}"
            )
    elif earlier:
        raise ValueError(f"earlier is {earlier}, but there is no history to read from")
    if sample_ids is not None:
        checks.require_sample_ids(sample_ids, len(state))
        checks.require_device("sample_ids", sample_ids, "state", state)
