# SPDX-License-Identifier: Apache-2.0
"""Adaptive samplers: "rk45" on the probability flow, "ggf" on the reverse SDE.

"ggf" is "Gotta Go Fast" (Jolicoeur-Martineau et al. 2021, algorithm 1).  Its step is stochastic improved Euler: the
mean of an Euler-Maruyama step and of a second one with the drift and the noise at the end of the first.  The difference
of the two is the error estimate.

As published, "ggf" repeats a refused step with new noise, which favours noise with small errors.  The bias averages out
over the elements of an image; on samples of a few numbers it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde_fast.devices import arithmetic
from scoresde_fast.flow.drift import TimeCurves
from scoresde_fast.flow.integrate import (
    Attempt,
    BatchIntegrator,
    IntegrationState,
    OnAttempt,
    Solution,
    Tolerances,
    replace_where,
)
from scoresde_fast.flow.options import AdaptiveOptions
from scoresde_fast.flow.probability_flow import FlowRunner, FlowSolver
from scoresde_fast.loop.evaluator import evaluator
from scoresde_fast.loop.loop import Loop
from scoresde_fast.loop.program import Program
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.loop.runner import prior
from scoresde_fast.model import ScoreFunction
from scoresde_fast.ops import affine_step
from scoresde_fast.ops.step_table import COLUMNS, CONTROL, WIDTH, DeviceTable
from scoresde_fast.run_options import RunOptions
from scoresde_fast.sdes import CLDSDE, SDE, ScalarSDE
from scoresde_fast.solvers import find_solver
from scoresde_fast.solvers.table import StepTable

FIRST_LENGTH, SAFETY, EXPONENT = 0.01, 0.9, 0.9
"""The first step of "ggf", and theta and r of the paper."""
EVALUATIONS = 2
"""Network evaluations of an attempt of "ggf"."""
MIN_STEP_ULPS = 10
"""The shortest step of "ggf", in spacings of float64 at t."""


class AdaptiveRunner(FlowRunner):
    """Runs seeds to states: `FlowRunner` from the prior to ``eps``, then a denoising step.

    Args:
        model: on its device, in evaluation mode; its network may be replaced or changed between two runs.
        options: the solver and its tolerances, as completed by `AdaptiveOptions.on`.
        device, run: as in `FlowRunner`, with its errors.
    """

    nfe = None

    def __init__(self, model: ScoreFunction, options: AdaptiveOptions, device: torch.device, run: RunOptions) -> None:
        assert options.eps is not None and options.rtol is not None and options.atol is not None
        tolerances = Tolerances(options.rtol, options.atol, options.error_norm)
        self._finish = (
            Program.of_model(model, _denoising_table(model.sde, options.eps), device) if options.denoise else None
        )
        self._denoise: Loop | None = None
        self._evaluations: dict[int, int] = {}
        probability_flow = options.solver == "rk45"
        super().__init__(model, device, run, tolerances, model.sde.T, options.eps, probability_flow=probability_flow)

    @torch.inference_mode()
    def run(self, seeds: Sequence[int], on_step: OnStep | None = None) -> Tensor:
        """Return states (len(seeds), *state_shape) float32, run as one batch; the errors are those of `solve`."""
        x, noise = prior(self.model, self.run_options, seeds, self.device)
        flowed = self.solve(x, seeds, on_step)
        states = flowed.states.float()
        if self._finish is not None:
            assert self._denoise is not None
            with arithmetic(self.precision, self.device, strict=self.run_options.strict):
                states = self._denoise.run(states, noise)
        last, strict = int(self._finish is not None), self.run_options.strict
        # Repeated seeds fill up a batch: the first place of a seed counts, or with `strict` the place that it owns.
        for place, (seed, count) in reversed(list(enumerate(zip(seeds, flowed.evaluations.tolist(), strict=True)))):
            if not strict or seed % len(seeds) == place:
                self._evaluations[seed] = count + last
        return states

    def evaluations(self, seeds: Sequence[int]) -> list[int]:
        """Return the network evaluations of each seed's run; raises ValueError for a seed that has not been run."""
        if missing := [seed for seed in seeds if seed not in self._evaluations]:
            raise ValueError(f"the image of seed {missing[0]} has not been drawn, so its evaluations are not known")
        return [self._evaluations[seed] for seed in seeds]

    def release(self) -> None:
        """Free the memory held on the device."""
        self._denoise = None
        super().release()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _make(self) -> None:
        if self._finish is not None:
            network = evaluator(self.model.network, self._finish.labels, self.precision)
            self._denoise = Loop(self._finish, network, self.backends)
        super()._make()

    def _make_solver(self, batch: int, capture: Callable[[Attempt], Attempt] | None) -> FlowSolver:
        return super()._make_solver(batch, capture) if self.probability_flow else GottaGoFast(self, capture)


def _denoising_table(sde: SDE, eps: float) -> StepTable:
    """Return the one row from ``eps`` to the data."""
    finish = find_solver("em" if isinstance(sde, CLDSDE) else "ddim", sde).finish
    assert finish is not None
    return StepTable.of([finish(sde, eps, eps)])


@dataclass(frozen=True, eq=False)
class GottaGoFastState(IntegrationState):
    """`IntegrationState` with what "ggf" keeps on the device."""

    before: Tensor  # (B, C, H, W) float64, the Euler-Maruyama step of the last accepted attempt
    noise: Tensor  # (B, C, H, W) float32, of the attempt
    sample_ids: Tensor  # (B,) int64
    table: DeviceTable  # rows that write the noise of each attempt


class GottaGoFast(BatchIntegrator[GottaGoFastState]):
    """Solves the reverse SDE of a runner from T to ``eps``.

    Its rtol is relative to the larger of a value and its value in the step before.  Attempt i uses the draw i, counted
    from 1.
    """

    def __init__(self, runner: AdaptiveRunner, capture: Callable[[Attempt], Attempt] | None) -> None:
        sde = runner.model.sde
        assert isinstance(sde, ScalarSDE) and isinstance(runner.control, Tolerances)
        super().__init__(runner.start, runner.end, runner.control, capture)
        self._drift, self._tolerances = runner.drift, runner.control
        self._diffusion = TimeCurves(lambda t: sde.diffusion(t)[None], runner.end, runner.start, runner.device)
        self._run_seed, self._noise_backend = runner.run_options.run_seed, runner.backends.affine_step

    def solve(self, states: Tensor, sample_ids: Tensor, on_attempt: OnAttempt | None = None) -> Solution:
        """Integrate ``states`` (B, C, H, W) float64; the errors are those of `BatchIntegrator.run`."""
        state, attempt = self.prepare(states)
        state.sample_ids.copy_(sample_ids)
        return self.run(state, attempt, states, on_attempt)

    def allocate(self, y: Tensor) -> GottaGoFastState:
        """Return a state for batches of the shape of ``y``."""
        tensors = GottaGoFastState.tensors(y)
        return GottaGoFastState(
            **tensors,
            before=y.clone(),
            noise=torch.zeros(y.shape, dtype=torch.float32, device=y.device),
            sample_ids=torch.zeros_like(tensors["evaluations"]),
            table=_noise_table(self._tolerances.max_attempts, y.device),
        )

    def load(self, state: GottaGoFastState, y: Tensor) -> None:
        """Put ``y`` into the state, at T and before the first attempt."""
        state.reset(y, self.start)
        state.before.copy_(y)
        state.length.fill_(FIRST_LENGTH)

    def attempt(self, state: GottaGoFastState) -> None:
        """Try one step, in place."""
        affine_step.affine_step(
            state.noise, state.table, counter=state.attempts, sample_ids=state.sample_ids, run_seed=self._run_seed,
            implementation=self._noise_backend,
        )  # fmt: skip
        active = ~(state.done | state.lost)
        shortest = MIN_STEP_ULPS * (state.t - torch.nextafter(state.t, torch.zeros_like(state.t)))
        too_short = state.refused & (state.length < shortest)
        ahead = state.t - torch.maximum(state.length, shortest)
        ahead = torch.where(ahead <= self.end, self.end, ahead)
        h = torch.where(active, state.t - ahead, 0.0)

        def euler_maruyama(x: Tensor, t: Tensor) -> Tensor:
            """Step from the state with the drift and the noise at ``x`` and ``t``."""
            kick = (self._diffusion(t)[0] * h.sqrt()).view(-1, *[1] * (x.ndim - 1))
            return state.y - h.view(kick.shape) * self._drift.slope(x, t) + kick * state.noise

        first = euler_maruyama(state.y, state.t)
        better = (first + euler_maruyama(first, torch.where(active, ahead, state.t))) / 2
        allowed = self._tolerances.rtol * torch.maximum(first.abs(), state.before.abs())
        scaled = (first - better) / allowed.clamp(min=self._tolerances.atol)
        error = scaled.flatten(1).square().mean(1).sqrt()
        broken, accepted = ~error.isfinite(), error <= 1
        length = h * SAFETY * error.clamp(min=1e-12) ** -EXPONENT
        replace_where(state.length, active, torch.where(broken, h / 2, length))
        for tensor, value in ((state.y, better), (state.before, first), (state.t, ahead)):
            replace_where(tensor, active & accepted, value)
        state.record(self.end, accepted, broken, too_short, EVALUATIONS)


def _noise_table(rows: int, device: torch.device) -> DeviceTable:
    """Return a table whose row i writes only noise, of draw i + 1."""
    coefficients, control = torch.zeros(rows, WIDTH), torch.zeros(rows, len(CONTROL), dtype=torch.int32)
    coefficients[:, COLUMNS.noise] = 1
    control[:, CONTROL.draw] = torch.arange(1, rows + 1)
    return DeviceTable(coefficients.to(device), control.to(device))
