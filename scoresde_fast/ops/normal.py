# SPDX-License-Identifier: Apache-2.0
"""``normal``: a field of standard normals for each sample, by the noise contract of `scoresde_fast.rng`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde_fast import _extension
from scoresde_fast.ops.backends import Backend, Operation, register
from scoresde_fast.ops.library import library
from scoresde_fast.rng import standard_normals

library.define("normal(Tensor sample_ids, int run_seed, int draw, SymInt elements) -> Tensor")
library.impl("normal", standard_normals, "CompositeExplicitAutograd")


def _fake(sample_ids: Tensor, run_seed: int, draw: int, elements: int) -> Tensor:
    return sample_ids.new_empty((sample_ids.shape[0], elements), dtype=torch.float32)


torch.library.register_fake("scoresde_fast::normal", _fake)


def _cpu() -> Backend:
    if _extension.why_missing is not None:
        return Backend(standard_normals, "cpu", _extension.why_missing)
    torch.library.register_fake("scoresde_fast_C::normal", _fake)
    return Backend(torch.ops.scoresde_fast_C.normal.default, "cpu")


operation = register(Operation("normal", torch.ops.scoresde_fast.normal.default, {"cpu": _cpu()}))


def normal(
    sample_ids: Tensor,
    run_seed: int,
    draw: int,
    shape: tuple[int, ...],
    implementation: Callable[..., Tensor] | None = None,
) -> Tensor:
    """The normal field ``draw`` of each sample.

    Args:
        sample_ids: (B,) int64, each in [0, 2^63).
        run_seed: the run's seed, in [0, 2^64).
        draw: the field's number in the run, in [0, 2^32); the prior is draw 0.
        shape: one sample's shape; the position in its contiguous memory is the element index of the contract.
        implementation: what ``operation.choose`` returned; None chooses now.

    Returns:
        (B, *shape) float32 on the device of ``sample_ids``.

    Raises:
        ValueError: the run seed or ``draw`` is out of range, or a sample has 2^34 elements or more.
    """
    elements = math.prod(shape)
    require("run seed", run_seed, 64)
    require("draw", draw, 32)
    require("number of elements", elements, 34)
    implementation = implementation or operation.choose(sample_ids.device)
    # Operator schemas carry signed 64-bit integers: the upper half of the seeds goes as its two's complement.
    signed = run_seed - 2**64 if run_seed >= 2**63 else run_seed
    return implementation(sample_ids.contiguous(), signed, draw, elements).view(len(sample_ids), *shape)


def require(name: str, value: int, bits: int) -> None:
    """Raises ValueError unless ``value`` is an unsigned integer of that many bits."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**bits:
        raise ValueError(f"{name} {value!r} is out of range: choose an integer from 0 to 2^{bits} - 1")
