# SPDX-License-Identifier: Apache-2.0
"""The noise of one batch of a run, and checks of seeds."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from scoresde_fast.errors import shown
from scoresde_fast.ops import checks, normal

LARGEST_SEED = 2**63 - 1
"""Largest seed: seeds are the sample ids of the noise contract, stored as int64."""
MOST_SEEDS = 10**8
"""Largest number of seeds of one call, whose samples are all in memory."""


def check_seed(seed: Any) -> int:
    """Return the seed, which may be an integer of NumPy or torch, as an int.

    Raises:
        ValueError: the seed is not an integer from 0 to `LARGEST_SEED`.
    """
    try:
        value = seed if isinstance(seed, bool) else operator.index(seed)
    except TypeError:  # also a tensor of floats, or of several seeds
        value = seed
    checks.require_unsigned("seed", value, 63)
    return int(value)


def seed_sequence(seeds: Sequence[int] | int) -> Sequence[int]:
    """Return the seeds; a number n stands for 0, 1, ..., n - 1.

    Raises:
        ValueError: ``seeds`` is neither a sequence nor a number of at least 1, or there are more than `MOST_SEEDS`.
    """
    if isinstance(seeds, SupportsIndex) and not isinstance(seeds, bool) and not getattr(seeds, "ndim", 0):
        count = operator.index(seeds)
        checks.require_unsigned("the number of seeds", count, 63)
        if count == 0:
            raise ValueError("seeds is 0, a number of images; give at least 1, or [0] for the image of seed 0")
        return _require_few(range(count))
    if isinstance(seeds, str | bytes | bytearray | int) or not (
        hasattr(seeds, "__len__") and hasattr(seeds, "__getitem__")
    ):
        raise ValueError(
            f"seeds is {shown(seeds)}; pass a number of images or a sequence of integers, such as range(64)"
        )
    return _require_few(seeds)


def _require_few(seeds: Sequence[int]) -> Sequence[int]:
    """Return ``seeds``; raise ValueError if they are more than `MOST_SEEDS`."""
    try:
        few = len(seeds) <= MOST_SEEDS
    except OverflowError:  # a range of more than 2^63
        few = False
    if not few:
        raise ValueError(
            f"seeds is {shown(seeds)}; at most {MOST_SEEDS} images are sampled in one call: scoresde_fast.generate "
            "writes sets of any size to disk"
        )
    return seeds


@dataclass(frozen=True, eq=False)
class Noise:
    """Normal noise for a batch, by the contract of `scoresde_fast.rng`.

    Args:
        run_seed: seed of the run, an integer in [0, 2^64).
        sample_ids: (B,) int64, each in [0, 2^63): the user's seeds, on the device of the noise.
        backend: as in ``Operation.choose`` of `scoresde_fast.ops`; it is chosen once, for all draws.
        precise: on a GPU, stay within 2 ulp of the contract instead of using the faster approximation.

    Raises:
        ValueError: an argument is not as described.
        RuntimeError: the backend is not available.
    """

    run_seed: int
    sample_ids: Tensor
    backend: str | None = None
    precise: bool = False
    _implementation: Callable[..., Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        checks.require_unsigned("run seed", self.run_seed, 64)
        ids = self.sample_ids
        if ids.dtype != torch.int64 or ids.ndim != 1:
            raise ValueError(
                f"sample ids are {tuple(ids.shape)} {ids.dtype}: pass a one-dimensional int64 tensor, one id per sample"
            )
        if ids.numel() and (lowest := int(ids.min())) < 0:
            raise ValueError(f"sample id {lowest} is negative: choose integers from 0 to 2^63 - 1")
        object.__setattr__(self, "_implementation", normal.operation.choose(ids.device, self.backend))

    def normal(self, draw: int, shape: tuple[int, ...]) -> Tensor:
        """Return the noise of draw index ``draw`` (the prior is 0): (B, *shape) float32 for samples of ``shape``."""
        return normal.normal(
            self.sample_ids, self.run_seed, draw, shape, precise=self.precise, implementation=self._implementation
        )
