# SPDX-License-Identifier: Apache-2.0
"""Samples by a solver that chooses its own steps, "rk45" or "ggf"; tables have `scoresde_fast.loop.table_runner`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde_fast.devices import arithmetic
from scoresde_fast.flow.control import Tolerances
from scoresde_fast.flow.options import AdaptiveOptions
from scoresde_fast.flow.runner import FlowRunner
from scoresde_fast.loop.evaluator import evaluator
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.loop.runner import prior
from scoresde_fast.model import ScoreFunction
from scoresde_fast.run_options import RunOptions
from scoresde_fast.sdes import CLDSDE, SDE
from scoresde_fast.solvers import find_solver
from scoresde_fast.solvers.table import StepTable


class AdaptiveRunner(FlowRunner):
    """From seeds to states, by `FlowRunner` from the prior to the time ``eps``, and a denoising step from there.

    Args:
        model: on its device, in evaluation mode; its network may be replaced or changed between two runs.
        options: the solver and its tolerances, complete: see `AdaptiveOptions.on`.
        device, run: as in `FlowRunner`, with its errors.
    """

    nfe = None

    def __init__(self, model: ScoreFunction, options: AdaptiveOptions, device: torch.device, run: RunOptions) -> None:
        # Numbers, which `AdaptiveOptions.on` has put there.
        assert options.eps is not None and options.rtol is not None and options.atol is not None
        tolerances = Tolerances(options.rtol, options.atol, options.error_norm)
        self._finish = Program.of_model(model, _last_step(model.sde, options.eps), device) if options.denoise else None
        self._denoise: Loop | None = None
        self._evaluations: dict[int, int] = {}
        reverse_sde = options.solver == "ggf"
        super().__init__(model, device, run, tolerances, model.sde.T, options.eps, reverse_sde=reverse_sde)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _make(self) -> None:
        if self._finish is not None:
            network = evaluator(self.model.network, self._finish.labels, self.precision)
            self._denoise = Loop(self._finish, network, StepBackends.choose(self.device, self.run_options.backend))
        super()._make()

    def release(self) -> None:
        """Give back what is held on the device."""
        self._denoise = None
        super().release()

    @torch.inference_mode()
    def run(self, seeds: Sequence[int], on_step: OnStep | None = None) -> Tensor:
        """States (len(seeds), *state_shape) float32 of the seeds, run as one batch; the errors are those of `solve`."""
        x, noise = prior(self.model, self.run_options, seeds, self.device)
        flowed = self.solve(x, seeds, on_step)
        states = flowed.states.float()
        if self._finish is not None:
            assert self._denoise is not None
            with arithmetic(self.precision, self.device, strict=self.run_options.strict):
                states = self._denoise.run(states, noise)
        last, strict = int(self._finish is not None), self.run_options.strict
        # What only fills the batch does not count: a seed's first place does, or where strict its own.
        for place, (seed, count) in reversed(list(enumerate(zip(seeds, flowed.evaluations.tolist(), strict=True)))):
            if not strict or seed % len(seeds) == place:
                self._evaluations[seed] = count + last
        return states

    def evaluations(self, seeds: Sequence[int]) -> list[int]:
        """Network evaluations that each seed's run has cost; ValueError where one has not been run."""
        if missing := [seed for seed in seeds if seed not in self._evaluations]:
            raise ValueError(f"the image of seed {missing[0]} has not been drawn, so what it costs is not known")
        return [self._evaluations[seed] for seed in seeds]


def _last_step(sde: SDE, eps: float) -> StepTable:
    """The denoising."""
    finish = find_solver("em" if isinstance(sde, CLDSDE) else "ddim", sde).finish
    assert finish is not None
    return StepTable.of([finish(sde, eps, eps)])
