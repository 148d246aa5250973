# SPDX-License-Identifier: Apache-2.0
"""``normal`` and ``rademacher``: normal noise and random signs, set by the noise contract of `scoresde_fast.rng`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.ops import checks
from scoresde_fast.ops.registration import define
from scoresde_fast.rng import random_signs, standard_normals


def normal(
    sample_ids: Tensor,
    run_seed: int,
    draw: int,
    shape: tuple[int, ...],
    *,
    precise: bool = False,
    implementation: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Return standard normal noise for each sample, (B, *shape) float32 on the device of ``sample_ids``.

    Args:
        sample_ids: (B,) int64, each in [0, 2^63).
        run_seed: seed of the run, in [0, 2^64).
        draw: index of the noise draw within the run, in [0, 2^32); the prior is draw 0.
        shape: shape of one sample; the noise contract numbers its elements in contiguous order.
        precise: on a GPU, stay within 2 ulp of the contract instead of using the faster approximation.
        implementation: a result of ``operation.choose``; None uses the default backend.

    Raises:
        TypeError: ``sample_ids`` is not int64.
        ValueError: an argument is out of range, or a sample has 2^34 elements or more.
    """
    elements = _require(sample_ids, run_seed, draw, shape)
    implementation = implementation or torch.ops.scoresde_fast.normal.default
    noise = implementation(sample_ids.contiguous(), checks.signed64(run_seed), draw, elements, precise)
    return noise.view(len(sample_ids), *shape)


def rademacher(
    sample_ids: Tensor,
    run_seed: int,
    draw: int,
    shape: tuple[int, ...],
    *,
    implementation: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Return independent signs for each sample, (B, *shape) float32, -1 or 1 with equal probability.

    As probes of a trace estimate, signs have the least variance.  The arguments and errors are those of `normal`;
    ``implementation`` is a result of ``rademacher_operation.choose``.
    """
    elements = _require(sample_ids, run_seed, draw, shape)
    implementation = implementation or torch.ops.scoresde_fast.rademacher.default
    signs = implementation(sample_ids.contiguous(), checks.signed64(run_seed), draw, elements)
    return signs.view(len(sample_ids), *shape)


def _require(sample_ids: Tensor, run_seed: int, draw: int, shape: tuple[int, ...]) -> int:
    """Check the arguments and return the number of elements of one sample."""
    elements = math.prod(shape)
    checks.require_dtype("sample_ids", sample_ids, [torch.int64])
    if sample_ids.ndim != 1:
        raise ValueError(f"sample_ids has shape {tuple(sample_ids.shape)}; give a one-dimensional int64 tensor")
    checks.require_unsigned("run seed", run_seed, 64)
    checks.require_unsigned("draw", draw, 32)
    checks.require_unsigned("number of elements", elements, 34)
    return elements


def _reference(sample_ids: Tensor, run_seed: int, draw: int, elements: int, precise: bool) -> Tensor:
    return standard_normals(sample_ids, run_seed, draw, elements)


def _fake(sample_ids: Tensor, run_seed: int, draw: int, elements: int, *_precise: Any) -> Tensor:  # only for normal
    return sample_ids.new_empty((sample_ids.shape[0], elements), dtype=torch.float32)


operation = define(
    "normal(Tensor sample_ids, int run_seed, int draw, SymInt elements, bool precise) -> Tensor", _reference, _fake
)
rademacher_operation = define(
    "rademacher(Tensor sample_ids, int run_seed, int draw, SymInt elements) -> Tensor", random_signs, _fake
)
