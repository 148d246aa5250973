# SPDX-License-Identifier: Apache-2.0
"""The converged probability flow of some seeds at all times of a fine grid, and the network at these times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.devices import arithmetic, choose_precision
from scoresde_fast.loop.evaluator import evaluators
from scoresde_fast.loop.table_runner import TableRunner
from scoresde_fast.loop.workers import MIN_IMAGES, run_parts, split
from scoresde_fast.model import ScoreFunction, evaluation_mode
from scoresde_fast.noise import Noise
from scoresde_fast.sampler import Sampler
from scoresde_fast.sdes import CLDSDE, SDE, Array
from scoresde_fast.solvers import SOLVERS, SolverOptions, TimeGrid, make_grid

FINE_STEPS = 128
"""Number of steps of the converged flow, about."""


def fine_times(sde: SDE) -> Array:
    """Return times from T to eps, (n + 1,) with n about `FINE_STEPS`: those of the grids "karras" and "logsnr"."""
    halves = [make_grid(name, sde, FINE_STEPS // 2, sde.sampling_eps).edges for name in ("karras", "logsnr")]
    return np.union1d(*halves)[::-1]


@dataclass(frozen=True)
class FirstOrderStep:
    """The step x' = ``state`` x + ``output`` d, d = ``derive_state`` x + ``derive_score`` score, of the flow.

    All are matrices (P, P), and ``derive_score`` is (P, 1), for states of P parts: one, or position and velocity.
    """

    state: Tensor
    output: Tensor
    derive_state: Tensor
    derive_score: Tensor


def first_order_options(sde: SDE, times: Sequence[float], weights: Sequence[Sequence[float]] = ()) -> SolverOptions:
    """Return the options of first-order steps of the probability flow between ``times``, with fitted weights."""
    solver, order = ("gddim", 1) if isinstance(sde, CLDSDE) else ("ddim", None)
    fitted = tuple(tuple(row) for row in weights) or None
    return SolverOptions(solver, grid=tuple(times), order=order, probability_flow=True, denoise=False, weights=fitted)


def first_order_steps(sde: SDE, times: Array) -> list[FirstOrderStep]:
    """Return the first-order steps of the probability flow between ``times`` (n + 1,)."""

    def matrix(values: Any, columns: int = sde.parts) -> Tensor:
        return torch.from_numpy(np.reshape(values, (sde.parts, columns))).float()

    options = first_order_options(sde, times.tolist())
    order = {} if options.order is None else {"order": options.order}
    steps = []
    for row in SOLVERS[options.solver].fill(sde, TimeGrid.between(times), probability_flow=True, **order):
        assert row.derive is not None
        derive_state, derive_score = row.derive
        steps.append(
            FirstOrderStep(matrix(row.state), matrix(row.outputs[0]), matrix(derive_state), matrix(derive_score, 1))
        )
    return steps


class ConvergedFlow:
    """The flow of a model from the priors of some seeds.

    Args:
        model: the model, on the device on which to compute.
        seeds: the seeds.
        inputs, guidance: as in `Sampler`.

    Attributes:
        seeds: the seeds.
        times: (n + 1,) the fine times, from T to eps.
        states: (n + 1, N, P, D) the states of P parts and D elements at these times.
        images: (N, P, D) the last states without their noise.
    """

    def __init__(self, model: ScoreFunction, seeds: Sequence[int], **network: Any) -> None:
        times = fine_times(model.sde)
        solver, order = ("gddim", 3) if isinstance(model.sde, CLDSDE) else ("dpmpp_3m", None)
        converged = SolverOptions(solver, grid=tuple(times.tolist()), order=order, probability_flow=True)
        sampler = Sampler(model, converged, strict=False, **network)
        _, trajectory = sampler.sample(seeds, trajectory=True)
        assert isinstance(sampler.runner, TableRunner)
        self.model, self.device, self.times, self.seeds = sampler.runner.model, sampler.device, times, seeds
        ids = torch.tensor(list(seeds), device=self.device)
        prior = self.model.prior(Noise(0, ids).normal(0, model.state_shape))
        self.states = torch.stack([self.flat(x) for x in (prior, *trajectory.states[:-1])])
        self.images = self.flat(trajectory.states[-1])
        self._inputs, self._program = sampler.inputs.data(ids), sampler.runner.program
        self._precision = choose_precision("auto", self.device)
        self._plain, self._guided = evaluators(self.model.network, self._program, sampler.inputs, self._precision)
        parametrisation = self.model.parametrisation
        self._scales = parametrisation.output_scale(times), parametrisation.state_scale(times)

    @property
    def sde(self) -> SDE:
        """The SDE, at the times of training."""
        return self.model.sde

    def output(self, x: Tensor, step: FirstOrderStep, index: int) -> Tensor:
        """Return the output (N, P, D) that a step derives from states (N, P, D) at the time with this index."""
        return step.derive_state @ x + step.derive_score @ self.score(x, index)

    def score(self, x: Tensor, index: int) -> Tensor:
        """Return the score (N, 1, D) of states (N, P, D) at the time with this index."""
        network = self._guided if self._program.kinds[index].guided else self._plain
        row = torch.tensor([index], device=self.device)
        states = x.reshape(len(x), *self.model.state_shape)

        def evaluate(part: Sequence[int], _: object) -> Tensor:
            positions = slice(part[0], part[-1] + 1)
            with torch.inference_mode(), arithmetic(self._precision, self.device):
                return network(states[positions].contiguous(), row, *(each[positions] for each in self._inputs))

        workers = torch.get_num_threads() if self.device.type == "cpu" and len(x) >= 2 * MIN_IMAGES else None
        with evaluation_mode(self.model.network):
            output = torch.cat(run_parts(evaluate, split(range(len(x)), workers or 1), workers, None))
        output_scale, state_scale = (float(scale[index]) for scale in self._scales)
        return output_scale * output.reshape(len(x), 1, -1) + state_scale * x[:, -1:]

    def flat(self, x: Tensor) -> Tensor:
        """Return states (N, ...) as (N, P, D) on the device."""
        return x.to(self.device).reshape(len(x), self.model.sde.parts, -1)
