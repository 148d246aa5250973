# SPDX-License-Identifier: Apache-2.0
"""A sampler that returns known images without a network, for the tests of code that uses a sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

OUTS = ["set", "set.npz", "set.zip", "set.tar", "set.npy"]
"""One ``out`` for each storage format."""


@dataclass
class StubSampler:
    """Returns images that depend on their seed and, if ``batch_dependent``, their batch.

    ``batches`` records the seeds of each batch.  The batch with the seed ``nan_in`` contains NaN, and the one with the
    seed ``interrupt_in`` is interrupted.
    """

    steps: int = 3
    batch_dependent: bool = False
    implementation: str = ""
    nan_in: int | None = None
    interrupt_in: int | None = None
    channels: int = 3
    batch_size: int = 3
    batches: list[list[int]] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def nfe(self) -> int:
        return 2 * self.steps

    def describe(self) -> dict[str, object]:
        return {"model": {"name": "stub"}, "solver": "pc", "steps": self.steps, "grid": (0.0, 1.0)}

    def stream(
        self, seeds: Sequence[int], batch_size: int, on_step: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        for start in range(0, len(seeds), batch_size):
            batch = list(seeds[start : start + batch_size])
            self.batches.append(batch)
            for step in range(self.steps):
                if self.interrupt_in in batch:
                    raise KeyboardInterrupt
                if self.nan_in in batch and step == 1:
                    raise FloatingPointError(f"the network returned NaN at step {step} (t = 0.5)")
                if on_step:
                    on_step(2 * step + 2, self.nfe)
            shared = sum(batch) if self.batch_dependent else 0
            yield batch, torch.stack([self.image(seed + shared) for seed in batch])

    def image(self, seed: int) -> Tensor:
        pixels = torch.arange(self.channels * 20).reshape(self.channels, 4, 5) * (seed + 1) % 256
        return pixels.float() / 255


def files(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files below ``folder`` by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
