# SPDX-License-Identifier: Apache-2.0
"""``affine_step`` and ``affine_step_pair``: the step of a fixed-step solver, with coefficients from a row of a table.

The step computes the next state and the newest derived output from the state x, the saved state s, the network's output
o, up to three earlier derived outputs d_k and normal noise z, see `scoresde_fast.ops.step_table.Columns`.  For pairs
(x, v) of critically-damped Langevin diffusion (Dockhorn et al. 2022) the coefficients are 2x2 matrices, see
`PairColumns`; x is the first half of the channels and v the second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.ops import checks
from scoresde_fast.ops.registration import define
from scoresde_fast.ops.step_table import COLUMNS, CONTROL, PAIR_COLUMNS, PAIR_WIDTH, WIDTH, DeviceTable
from scoresde_fast.rng import WORD, standard_normals


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
    pairs: bool = False,
    run_seed: int = 0,
    precise: bool = False,
    implementation: Callable[..., None] | None = None,
) -> None:
    """Take one step in place.  The term of a tensor that is None is left out, whatever its coefficient.

    Args:
        state: (B, ...) float32, contiguous; becomes the next state.  A state of ``pairs`` is (B, 2C, ...).
        table: its ``coefficients`` are (rows, 10), for ``pairs`` (rows, 31).
        row: index of the row; if there is a ``counter``, the row is ``counter[0] + row``.
        counter: (1,) int32 or int64 on the state's device.
        saved: like ``state``; replaced by the state before the step if the row's ``save`` is 1.
        history: (H, B, ...) float32, ring buffer of derived outputs, H >= ``earlier``; the newest output is stored if
            there is a network output.
        network_output: float32, bfloat16 or float16, like ``state``, for ``pairs`` (B, C, ...).
        sample_ids: (B,) int64; None adds no noise.
        earlier: number of earlier derived outputs to read, 0 to 3.
        pairs: whether the state is a pair of position and velocity.
        run_seed: seed of the run, in [0, 2^64).
        precise: on a GPU, keep normals within 2 ulp of the contract instead of using the faster approximation.
        implementation: a result of ``operation.choose``, for ``pairs`` of ``pair_operation.choose``; None uses the
            default backend.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    if pairs and (state.ndim < 2 or state.shape[1] % 2):
        raise ValueError(
            f"state has shape {tuple(state.shape)}; a pair is (B, 2C, ...), with x and v of C channels each"
        )
    checks.require_contiguous("state", state, [torch.float32, torch.float64])
    checks.require_step(table.coefficients, PAIR_WIDTH if pairs else WIDTH, row, counter, run_seed, "state", state)
    if saved is not None:
        checks.require_like("saved", saved, [state.dtype], "state", state)
    _require_history(history, earlier, state)
    if sample_ids is not None:
        checks.require_sample_ids(sample_ids, "state", state)
    if network_output is not None:
        dtypes = (*checks.NETWORK_DTYPES, state.dtype)
        name, like = ("half of state", state.chunk(2, dim=1)[0]) if pairs else ("state", state)
        checks.require_like("network_output", network_output, dtypes, name, like)
    default = torch.ops.scoresde_fast.affine_step_pair if pairs else torch.ops.scoresde_fast.affine_step
    (implementation or default.default)(
        state, saved, history, network_output, sample_ids, table.coefficients, table.control, counter, row, earlier,
        checks.signed64(run_seed), precise,
    )  # fmt: skip


def _require_history(history: Tensor | None, earlier: int, state: Tensor) -> None:
    if not 0 <= earlier <= 3:
        raise ValueError(f"earlier is {earlier}; a step reads 0 to 3 earlier outputs")
    if history is not None:
        checks.require_contiguous("history", history, [state.dtype])
        checks.require_device("history", history, "state", state)
        if history.shape[1:] != state.shape or len(history) < max(earlier, 1):
            raise ValueError(
                f"history has shape {tuple(history.shape)}; for state of shape {tuple(state.shape)} it must be "
                f"(H, *state.shape) with H >= {max(earlier, 1)}"
            )
    elif earlier:
        raise ValueError(f"earlier is {earlier}, but there is no history to read from")


def row_noise(state: Tensor, sample_ids: Tensor, run_seed: int, control: Tensor) -> Tensor:
    """Return the noise of a row, in the shape and dtype of the state."""
    draw = int(control[CONTROL.draw]) & WORD
    noise = standard_normals(sample_ids, run_seed, draw, state[0].numel() if len(state) else 0)
    return noise.view(state.shape).to(state.dtype)


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
    columns: Any = COLUMNS if coefficients.shape[1] == WIDTH else PAIR_COLUMNS
    row, integers = DeviceTable(coefficients, control).row(counter, offset)
    factors = columns._make(row.to(state.dtype).tensor_split(columns[1:]))
    result = _product(factors.state, state)
    if saved is not None:
        _add_product(result, factors.saved, saved)
    output = None if network_output is None else network_output.to(state.dtype)
    if output is not None:
        _add_product(result, factors.output, output)
    slot = int(integers[CONTROL.slot])
    if history is not None:
        for k, factor in enumerate((factors.earlier1, factors.earlier2, factors.earlier3)[:earlier], start=1):
            _add_product(result, factor, history[(slot - k) % len(history)])
    if sample_ids is not None:
        _add_product(result, factors.noise, row_noise(state, sample_ids, run_seed, integers))
    if history is not None and output is not None:
        derived = _product(factors.derive_state, state) + _product(factors.derive_output, output)
        history[slot % len(history)].copy_(derived)
    if saved is not None and int(integers[CONTROL.save]):
        saved.copy_(state)
    state.copy_(result)


def _product(factor: Tensor, x: Tensor) -> Tensor:
    """Return factor x; for pairs the factor is a column (2,), a 2x2 matrix (4,) or its lower triangle (3,)."""
    if len(factor) == 1:
        return factor * x
    if len(factor) == 2:
        return torch.cat([factor[0] * x, factor[1] * x], dim=1)
    xx, xv, vx, vv = factor if len(factor) == 4 else (factor[0], 0 * factor[0], factor[1], factor[2])
    position, velocity = x.chunk(2, dim=1)
    return torch.cat([xx * position + xv * velocity, vx * position + vv * velocity], dim=1)


def _add_product(total: Tensor, factor: Tensor, x: Tensor) -> None:
    if len(factor) == 1:
        total.addcmul_(x, factor)
    else:
        total += _product(factor, x)


_ARGUMENTS = (
    "(Tensor(a!) state, Tensor(b!)? saved, Tensor(c!)? history, Tensor? network_output, Tensor? sample_ids, "
    "Tensor coefficients, Tensor control, Tensor? counter, int offset, int earlier, int run_seed, bool precise) -> ()"
)
operation = define("affine_step" + _ARGUMENTS, _reference)
pair_operation = define("affine_step_pair" + _ARGUMENTS, _reference)
