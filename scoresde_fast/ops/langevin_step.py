# SPDX-License-Identifier: Apache-2.0
"""``langevin_step``: the Langevin corrector, whose step size depends on the norms of the score and of the noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from scoresde_fast.ops import checks
from scoresde_fast.ops.affine_step import row_noise
from scoresde_fast.ops.langevin_norms import require_score
from scoresde_fast.ops.library import define
from scoresde_fast.ops.step_table import COLUMNS, DeviceTable

LangevinNorm = Literal["sample", "batch"]

SCHEMA = (
    "langevin_step(Tensor(a!) state, Tensor network_output, Tensor norms, Tensor sample_ids, Tensor coefficients, "
    "Tensor control, Tensor? counter, int offset, bool per_sample, int run_seed, bool precise) -> ()"
)


def _reference(
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


def _fake(state: Tensor, *_arguments: Any) -> None:
    return None


operation = define(SCHEMA, _reference, _fake)


def langevin_step(
    state: Tensor,
    network_output: Tensor,
    norms: Tensor,
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

    Song et al. 2021, algorithms 4 and 5.

    Args:
        state: (B, ...) float32, contiguous.
        network_output: as in `langevin_norms`.
        norms: (B, 2), what `langevin_norms` returned for the same row.
        norm: "batch": |.| is the mean over the batch of the samples' norms, as published; "sample": each sample's own,
            so that a sample does not depend on its batch.
        sample_ids, table, row, counter, run_seed, precise, implementation: as in `affine_step`; the table's column
            ``langevin`` holds the factor 2 alpha snr^2.

    Raises:
        TypeError, ValueError: a dtype, shape, stride, device, row or seed is not as above.
    """
    checks.require_dtype("state", state, [torch.float32, torch.float64])
    checks.require_contiguous("state", state)
    checks.require_like("network_output", network_output, "state", state)
    checks.require_choice("norm", norm, get_args(LangevinNorm))
    require_score(network_output, sample_ids, table, row, counter, run_seed)
    checks.require_dtype("norms", norms, [torch.float32, torch.float64])
    checks.require_contiguous("norms", norms)
    checks.require_device("norms", norms, "state", state)
    if norms.shape != (len(state), 2):
        raise ValueError(
            f"norms have shape {tuple(norms.shape)}; langevin_norms gives ({len(state)}, 2) for this batch"
        )
    (implementation or torch.ops.scoresde_fast.langevin_step.default)(
        state, network_output, norms, sample_ids, table.coefficients, table.control, counter, row, norm == "sample",
        checks.signed64(run_seed), precise,
    )  # fmt: skip
