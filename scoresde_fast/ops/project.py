# SPDX-License-Identifier: Apache-2.0
"""``project``: replaces the known part of a state by noised known data (Song et al. 2021, section 5).

The known values are means over blocks of elements.  Let A x be the means times the square root of the block size;
then the rows of A are orthonormal.  The state becomes x + A^T (y - A x), where y is A x of the noised known data, so
all elements of a known block move by the same amount.  Blocks of one element give inpainting, blocks of all channels
colorization, blocks of k x k pixels super-resolution.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde_fast.ops import checks
from scoresde_fast.ops.affine_step import row_noise
from scoresde_fast.ops.registration import define
from scoresde_fast.ops.step_table import LEVEL_WIDTH, LEVELS, DeviceTable


def project(
    state: Tensor,
    known: Tensor,
    mask: Tensor,
    sample_ids: Tensor,
    table: DeviceTable,
    row: int = 0,
    *,
    counter: Tensor | None = None,
    pairs: bool = False,
    run_seed: int = 0,
    precise: bool = False,
    implementation: Callable[..., None] | None = None,
) -> None:
    """Set the mean of every known block to the noised known mean, in place; other blocks do not change.

    Args:
        state: (B, C, H, W) float32 (or float64 in the reference), contiguous; with ``pairs`` (B, 2C, H, W), x first.
        known: (B, C', H', W') like ``state``, contiguous, the means m over blocks of C/C' x H/H' x W/W' elements.
        mask: like ``known``, bool; True where the mean is known.
        sample_ids: (B,) int64.
        table: its ``coefficients`` are (rows, 5), see `scoresde_fast.ops.step_table.LevelColumns`; its ``control``
            gives the draw.  The noise has the shape of ``known``; the velocity's noise follows it.
        row, counter, run_seed, precise, implementation: as in `affine_step`.
        pairs: whether the velocity of a known block is replaced too.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    checks.require_contiguous("state", state, [torch.float32, torch.float64])
    checks.require_step(table.coefficients, LEVEL_WIDTH, row, counter, run_seed, "state", state)
    checks.require_contiguous("known", known, [state.dtype])
    checks.require_device("known", known, "state", state)
    checks.require_like("mask", mask, [torch.bool], "known", known)
    if (
        not state.ndim == known.ndim == 4
        or len(known) != len(state)
        or not block_shape(tuple(state.shape[1:]), ((1 + pairs) * known.shape[1], *known.shape[2:]))
    ):
        raise ValueError(
            f"known has shape {tuple(known.shape)}; it must hold the means over equal blocks of the images in a state "
            f"of shape {tuple(state.shape)}{' of pairs' if pairs else ''}"
        )
    checks.require_sample_ids(sample_ids, "state", state)
    (implementation or torch.ops.scoresde_fast.project.default)(
        state, known, mask, sample_ids, table.coefficients, table.control, counter, row, pairs,
        checks.signed64(run_seed), precise,
    )  # fmt: skip


def block_shape(image: tuple[int, ...], known: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the block size (kc, kh, kw) of an image (C, H, W) with means (C', H', W'), or None if none fits."""
    if not len(image) == len(known) == 3:
        return None
    sizes = list(zip(image, known, strict=True))
    if any(n == 0 or whole % n for whole, n in sizes):
        return None
    return tuple(whole // n for whole, n in sizes)


def _reference(
    state: Tensor,
    known: Tensor,
    mask: Tensor,
    sample_ids: Tensor,
    coefficients: Tensor,
    control: Tensor,
    counter: Tensor | None,
    offset: int,
    pairs: bool,
    run_seed: int,
    precise: bool,
) -> None:
    row, controls = DeviceTable(coefficients, control).row(counter, offset)
    row, known = row.to(state.dtype), known.to(state.dtype)
    noise = row_noise(torch.cat([known] * (1 + pairs), dim=1), sample_ids, run_seed, controls).chunk(1 + pairs, dim=1)
    means = [row[LEVELS.scale] * known + row[LEVELS.noise] * noise[0]]
    if pairs:
        velocity = row[LEVELS.velocity_scale] * known + row[LEVELS.velocity_noise_x] * noise[0]
        means.append(velocity + row[LEVELS.velocity_noise_v] * noise[1])
    for part, mean in zip(state.chunk(1 + pairs, dim=1), means, strict=True):
        blocks = part
        for dim in (3, 2, 1):
            blocks = blocks.unflatten(dim, (known.shape[dim], -1))
        # (B, C, kc, H, kh, W, kw)
        target, is_known = mean[:, :, None, :, None, :, None], mask[:, :, None, :, None, :, None]
        if part.shape != known.shape:  # otherwise the target is exact
            target = blocks + (target - blocks.mean((2, 4, 6), keepdim=True))
        blocks.copy_(torch.where(is_known, target, blocks))


operation = define(
    "project(Tensor(a!) state, Tensor known, Tensor mask, Tensor sample_ids, Tensor coefficients, Tensor control, "
    "Tensor? counter, int offset, bool pairs, int run_seed, bool precise) -> ()",
    _reference,
    order=("triton", "cpu"),
)
