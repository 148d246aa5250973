# SPDX-License-Identifier: Apache-2.0
"""The noise of a run, bound to its seed and to the samples of one batch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from scoresde_fast.ops import checks, normal

LARGEST_SEED = 2**63 - 1
"""A seed is the 64-bit sample id of the noise contract, stored as int64."""


def check_seed(seed: Any) -> int:
    """Return the seed, which may be a NumPy integer, as an int.

    Raises:
        ValueError: it is not an integer from 0 to `LARGEST_SEED`.
    """
    number = operator.index(seed) if isinstance(seed, SupportsIndex) else seed
    checks.require_unsigned("seed", number, 63)
    return int(number)


def require_sequence(seeds: Sequence[int]) -> None:
    """Raise ValueError unless the seeds have a length and an order."""
    if isinstance(seeds, str) or not (hasattr(seeds, "__len__") and hasattr(seeds, "__getitem__")):
        raise ValueError(f"seeds is {seeds!r}; give a list or a range of whole numbers, for example range(64)")


@dataclass(frozen=True, eq=False)
class Noise:
    """Normal fields of a batch; each number depends on (run seed, sample id, draw, element), see `scoresde_fast.rng`.

    Args:
        run_seed: the run's seed, an integer in [0, 2^64).
        sample_ids: (B,) int64, each in [0, 2^63): the user's seeds, on the device of the noise.
        backend: as in ``Operation.choose`` of `scoresde_fast.ops`; chosen once, here.
        precise: on a GPU, within 2 ulp of the contract instead of the faster approximation.

    Raises:
        ValueError: the run seed, a sample id, their dtype or the backend is not as above.
        RuntimeError: the backend cannot run here.
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
                f"sample ids are {tuple(ids.shape)} {ids.dtype}: give a one-dimensional int64 tensor, one id a sample"
            )
        if ids.numel() and (lowest := int(ids.min())) < 0:
            raise ValueError(f"sample id {lowest} is negative: choose integers from 0 to 2^63 - 1")
        chosen = normal.operation.choose(ids.device, self.backend)
        object.__setattr__(self, "_implementation", chosen)

    def normal(self, draw: int, shape: tuple[int, ...]) -> Tensor:
        """Return field number ``draw`` of the run (the prior is 0), (B, *shape) float32 for samples of ``shape``."""
        return normal.normal(
            self.sample_ids, self.run_seed, draw, shape, precise=self.precise, implementation=self._implementation
        )
