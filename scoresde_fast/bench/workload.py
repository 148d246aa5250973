# SPDX-License-Identifier: Apache-2.0
"""One piece of work that every line of the waterfall does: a model, a solver's rows, and the seeds of a batch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from scoresde_fast.model import ScoreFunction
from scoresde_fast.sampler import Sampler
from scoresde_fast.solvers import SolverOptions, StepTable


@dataclass(frozen=True)
class Workload:
    """What is sampled.

    Attributes:
        model: the score model, on ``device`` and in evaluation mode; the lines leave it as it is.
        options: the solver.
        table: its rows.
        seeds: of the images, which are all one batch.
        device: where.
    """

    model: ScoreFunction
    options: SolverOptions
    table: StepTable
    seeds: tuple[int, ...]
    device: torch.device

    @classmethod
    def of(cls, model: ScoreFunction, batch: int, nfe: int, device: torch.device | str) -> Workload:
        """The model's own sampler, with so many steps that an image costs about ``nfe`` evaluations.

        Raises:
            ValueError: ``batch`` or ``nfe`` is below 1, the steps are too few for the solver, or there is no such
                device.
        """
        for name, value in (("batch size", batch), ("nfe", nfe)):
            if value < 1:
                raise ValueError(f"the {name} is {value}; it must be at least 1")
        whole = Sampler(model, device=device)
        assert isinstance(whole.options, SolverOptions)  # a configuration names no other
        steps = max(1, round(nfe * whole.options.steps / whole.table.nfe))
        sampler = Sampler(model, steps=steps, device=device)
        assert isinstance(sampler.options, SolverOptions)
        return cls(sampler.model, sampler.options, sampler.table, tuple(range(batch)), sampler.device)

    @property
    def batch(self) -> int:
        """Images."""
        return len(self.seeds)

    @property
    def nfe(self) -> int:
        """Network evaluations an image costs."""
        return self.table.nfe

    def sampler_options(self) -> dict[str, Any]:
        """The keyword arguments that make a `Sampler` do this workload, its model and what concerns speed left out."""
        return {**asdict(self.options), "device": self.device, "batch_size": self.batch}
