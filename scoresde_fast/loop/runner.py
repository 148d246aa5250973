# SPDX-License-Identifier: Apache-2.0
"""The interface of runners, which execute fixed-step or adaptive solvers for a sampler."""

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
        device: device of the run.
        precision: precision of the network.
        batch_dependent: whether a result depends on the other results of its batch.
        evaluation: description of what a step evaluates, such as "output" or "gradient"; memory use depends on it.
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
        """Rebuild everything that depends on the network if the network has changed; called before a run."""

    def size_for(self, batch: int, full: int) -> int:
        """Return the size to which to pad ``batch`` samples, given the size of a full batch; 0 for no padding."""

    def prepare(self, batch: int) -> object:
        """Prepare batches of this size."""

    def fits(self, batch: int) -> bool:
        """Return whether one evaluation of this many samples fits in memory, and free the memory it used."""


class SampleRunner(Runner, Protocol):
    """Runs seeds from their priors to their final states.

    Attributes:
        nfe: network evaluations per run; None if they depend on the sample.
    """

    @property
    def nfe(self) -> int | None: ...

    def run(self, seeds: Sequence[int], on_step: OnStep | None = None) -> Tensor:
        """Return the final states (len(seeds), *state_shape) of one batch; ``on_step`` gets (work done, total work)."""

    def evaluations(self, seeds: Sequence[int]) -> list[int]:
        """Return the network evaluations of each seed; raises ValueError for seeds that have not run if it varies."""


def prior(model: ScoreFunction, run: RunOptions, seeds: Sequence[int], device: torch.device) -> tuple[Tensor, Noise]:
    """Return the states at T of the seeds, (len(seeds), *state_shape), and the noise of their runs."""
    noise = Noise(run.run_seed, torch.tensor(seeds, dtype=torch.int64, device=device), run.backend)
    return model.prior(noise.normal(0, model.state_shape)), noise
