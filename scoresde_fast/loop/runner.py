# SPDX-License-Identifier: Apache-2.0
"""The interface between a sampler and its runner, whichever kind of solver that runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from scoresde_fast.devices import Precision
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.run_options import RunOptions


class Runner(Protocol):
    """Runs batches on a device.

    Attributes:
        device: where it computes.
        precision: what the network computes in.
        batch_dependent: whether a result depends on the other results of its batch.
        evaluation: what one step evaluates, in words; the memory that a batch takes depends on it.
    """

    @property
    def device(self) -> torch.device: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def batch_dependent(self) -> bool: ...
    @property
    def evaluation(self) -> str: ...

    def refresh(self) -> object:
        """Rebuild what depends on the network if the network has changed; called before a run."""

    def size_for(self, batch: int, full: int) -> int:
        """Return the size to run ``batch`` samples at where batches of ``full`` are usual; 0: as it is."""

    def prepare(self, batch: int) -> object:
        """Make batches of that size ready."""

    def fits(self, batch: int) -> bool:
        """Return whether one evaluation of that many samples fits in memory, and free what it took."""


class SampleRunner(Runner, Protocol):
    """Runs seeds to states at the end of their runs.

    Attributes:
        nfe: network evaluations of a run; None where they depend on the sample.
    """

    @property
    def nfe(self) -> int | None: ...

    def run(self, seeds: Sequence[int], on_step: OnStep | None = None) -> Tensor:
        """Return states (len(seeds), *state_shape), run as one batch; ``on_step`` gets (work done, work in all)."""

    def evaluations(self, seeds: Sequence[int]) -> list[int]:
        """Return the network evaluations that each seed cost; raise ValueError where that is not known yet."""


def prior(model: ScoreFunction, run: RunOptions, seeds: Sequence[int], device: torch.device) -> tuple[Tensor, Noise]:
    """Return the states at T of the seeds, (len(seeds), *state_shape), and the noise of their runs."""
    noise = Noise(run.run_seed, torch.tensor(seeds, dtype=torch.int64, device=device), run.backend)
    return model.prior(noise.normal(0, model.state_shape)), noise
