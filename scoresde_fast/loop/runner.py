# SPDX-License-Identifier: Apache-2.0
"""What a sampler asks of a runner, whichever kind of solver it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from scoresde_fast.loop.watch import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.precision import Precision
from scoresde_fast.run_options import RunOptions


class Runner(Protocol):
    """Runs batches on a device.

    Attributes:
        device: where it computes.
        precision: what the network computes in.
        batch_dependent: a result depends on the others of its batch.
        evaluation: what is evaluated in a step, in words; how much fits in memory depends on it.
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
        """Make everything anew where the network has changed; comes before a run."""

    def size_for(self, batch: int, full: int) -> int:
        """The size to run ``batch`` samples at, where batches of ``full`` are usual; 0: any is taken as it is."""

    def prepare(self, batch: int) -> object:
        """Make batches of that size ready."""

    def fits(self, batch: int) -> bool:
        """Whether an evaluation of that many samples fits in memory; what was made ready is given back."""


class SampleRunner(Runner, Protocol):
    """From seeds to states at the end of their runs.

    Attributes:
        nfe: network evaluations of a run; None where they depend on the sample.
    """

    @property
    def nfe(self) -> int | None: ...

    def run(self, seeds: Sequence[int], on_step: OnStep | None = None) -> Tensor:
        """(len(seeds), *state_shape), run as one batch; ``on_step`` hears of (work done, work in all)."""

    def evaluations(self, seeds: Sequence[int]) -> list[int]:
        """Network evaluations that each of the seeds has cost; ValueError where that is not known yet."""


def prior(model: ScoreFunction, run: RunOptions, seeds: Sequence[int], device: torch.device) -> tuple[Tensor, Noise]:
    """The states at T of the seeds, (len(seeds), *state_shape), and their noise from there on."""
    noise = Noise(run.run_seed, torch.tensor(seeds, dtype=torch.int64, device=device), run.backend)
    return model.prior(noise.normal(0, model.state_shape)), noise
