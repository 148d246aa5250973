# SPDX-License-Identifier: Apache-2.0
"""Adaptive samplers: "rk45" on the probability flow, "ggf" on the reverse SDE.

"ggf" is "Gotta Go Fast" (Jolicoeur-Martineau et al. 2021, algorithm 1).  Its step is stochastic improved Euler: the
mean of two Euler-Maruyama steps, the second with drift and diffusion evaluated at the end of the first.  The difference
between the first step and the mean is the error estimate.

As published, "ggf" repeats a rejected step with new noise, which favours noise with small errors.  The bias is
negligible for images, but noticeable for samples of few elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scoresde_fast.devices import arithmetic
from scoresde_fast.flow.drift import TimeCurves
from scoresde_fast.flow.integrate import (
    MAX_ATTEMPTS,
    BatchIntegrator,
    Capture,
    OnAttempt,
    Solution,
    Tolerances,
    replace_where,
)
from scoresde_fast.flow.options import ADAPTIVE, AdaptiveOptions
from scoresde_fast.flow.probability_flow import FlowRunner, Solve
from scoresde_fast.loop.evaluator import evaluators
from scoresde_fast.loop.inputs import NO_INPUTS, NetworkInputs
from scoresde_fast.loop.loop import Loop
from scoresde_fast.loop.program import Program
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.loop.step import Callback
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.ops import affine_step
from scoresde_fast.ops.step_table import COLUMNS, CONTROL, WIDTH, DeviceTable
from scoresde_fast.run_options import RunOptions
from scoresde_fast.sdes import CLDSDE, SDE, ScalarSDE
from scoresde_fast.solvers import find_solver
from scoresde_fast.solvers.table import StepTable

FIRST_LENGTH, SAFETY, EXPONENT = 0.01, 0.9, 0.9
"""Length of the first step of "ggf", and theta and r of the paper."""
EVALUATIONS = 2
"""Network evaluations per attempt of "ggf"."""


class AdaptiveRunner(FlowRunner):
    """Samples the states of seeds: integrates from the prior to ``eps``, then takes a denoising step.

    Args:
        model: a model on its device; its network may be replaced or changed between runs.
        options: the solver and its tolerances, as completed by `AdaptiveOptions.on`.
        device, run, inputs: as in `FlowRunner`, with the same errors.
    """

    nfe = None

    def __init__(
        self,
        model: ScoreFunction,
        options: AdaptiveOptions,
        device: torch.device,
        run: RunOptions,
        inputs: NetworkInputs = NO_INPUTS,
    ) -> None:
        assert options.eps is not None and options.rtol is not None and options.atol is not None
        tolerances = Tolerances(options.rtol, options.atol, options.error_norm)
        self._denoising = (
            Program.of_model(model, _denoising_table(model.sde, options.eps), device, inputs)
            if options.denoise
            else None
        )
        self._denoising_loop: Loop | None = None
        self._evaluations: dict[int, int] = {}
        probability_flow, self._maker = ADAPTIVE[options.solver].probability_flow, MAKERS[options.solver]
        super().__init__(
            model, device, run, tolerances, model.sde.T, options.eps, probability_flow=probability_flow, inputs=inputs
        )

    @torch.inference_mode()
    def run(
        self,
        seeds: Sequence[int],
        on_step: OnStep | None = None,
        *,
        normals: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Return states (len(seeds), *state_shape) float32, sampled as one batch; the errors are as in `solve`.

        ``normals`` (len(seeds), *state_shape) replace the standard normal noise of the prior.

        Raises:
            ValueError: there is a callback; the samples have no common steps.
        """
        if callback is not None:
            raise ValueError(
                "an adaptive solver has no callback and no trajectory, because each sample has its own steps: choose a "
                "fixed-step solver, such as 'dpmpp_2m'"
            )
        run, sample_ids = self.run_options, torch.tensor(seeds, dtype=torch.int64, device=self.device)
        noise = Noise(run.run_seed, sample_ids, run.backend)
        normals = noise.normal(0, self.model.state_shape) if normals is None else normals.to(self.device)
        integrated = self.solve(self.model.prior(normals), seeds, on_step)
        states = integrated.states.float()
        if self._denoising is not None:
            assert self._denoising_loop is not None
            with arithmetic(self.precision, self.device, strict=self.strict):
                states = self._denoising_loop.run(states, noise)
        denoising = 0 if self._denoising is None else self._denoising.nfe
        counts = [count + denoising for count in integrated.evaluations.tolist()]
        # Padding repeats a seed: the count is that of the seed's first slot, or with `strict` of its fixed slot.
        for slot in reversed(range(len(seeds))):
            if not self.strict or seeds[slot] % len(seeds) == slot:
                self._evaluations[seeds[slot]] = counts[slot]
        return states

    def evaluations(self, seeds: Sequence[int]) -> list[int]:
        """Return the number of network evaluations of each seed; raises ``ValueError`` for a seed not sampled yet."""
        if missing := [seed for seed in seeds if seed not in self._evaluations]:
            raise ValueError(f"seed {missing[0]} has not been sampled, so its number of evaluations is unknown")
        return [self._evaluations[seed] for seed in seeds]

    def release(self) -> None:
        """Free the memory allocated on the device."""
        self._denoising_loop = None
        super().release()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _build(self) -> None:
        if self._denoising is not None:
            network, guided = evaluators(self.model.network, self._denoising, self.inputs, self.precision)
            self._denoising_loop = Loop(self._denoising, network, self.backends, inputs=self.inputs, guided=guided)
        super()._build()

    def _make_solver(self, batch: int, capture: Capture | None) -> Solve:
        return self._maker(self, batch, capture)


def _denoising_table(sde: SDE, eps: float) -> StepTable:
    """Return a table with one row, from ``eps`` to the data."""
    finish = find_solver("em" if isinstance(sde, CLDSDE) else "ddim", sde).finish
    assert finish is not None
    return StepTable.of([finish(sde, eps, eps)])


class GottaGoFast(BatchIntegrator):
    """Solves the reverse SDE of a runner from T to ``eps``, for batches of one size.

    rtol is relative to the larger of two Euler-Maruyama results, of this attempt and of the last accepted attempt.
    Attempt i = 0, 1, ... uses the draw i + 1.
    """

    def __init__(self, runner: AdaptiveRunner, batch: int, capture: Capture | None) -> None:
        sde, device = runner.model.sde, runner.device
        assert isinstance(sde, ScalarSDE) and isinstance(runner.control, Tolerances)
        like = torch.empty(batch, *runner.model.state_shape, dtype=torch.float64, device=device)
        super().__init__(like, runner.start, runner.end, runner.control, capture)
        self._drift, self._tolerances = runner.drift, runner.control
        self._diffusion = TimeCurves(lambda t: sde.diffusion(t)[None], runner.end, runner.start, device)
        self._run_seed, self._noise_backend = runner.run_options.run_seed, runner.backends.affine_step
        self._noise_table = _noise_table(MAX_ATTEMPTS, device)
        self._sample_ids = torch.zeros(batch, dtype=torch.int64, device=device)
        self._inputs, self._data = runner.inputs, runner.inputs.empty_data(batch)
        self._noise = torch.zeros(like.shape, dtype=torch.float32, device=device)  # of the attempt
        self._previous = torch.zeros_like(like)  # the Euler-Maruyama result of the last accepted attempt

    def run(self, states: Tensor, sample_ids: Tensor, padding: Tensor, on_attempt: OnAttempt | None = None) -> Solution:
        """Integrate ``states`` (B, C, H, W) float64 with the noise of the samples; raises as `solve`."""
        self._sample_ids.copy_(sample_ids)
        for tensor, value in zip(self._data, self._inputs.data(sample_ids), strict=True):
            tensor.copy_(value)
        return self.solve(states, on_attempt, padding)

    def load(self, y: Tensor) -> None:
        """Start from ``y`` at T."""
        super().load(y)
        self._previous.copy_(y)
        self.length.fill_(FIRST_LENGTH)

    def attempt(self) -> None:
        """Attempt one step of every sample, in place."""
        affine_step.affine_step(
            self._noise, self._noise_table, counter=self.attempts, sample_ids=self._sample_ids,
            run_seed=self._run_seed, implementation=self._noise_backend,
        )  # fmt: skip
        active = ~(self.done | self.failed)
        t_next, too_short = self.next_times(active)
        h = self.t - t_next

        def euler_maruyama(x: Tensor, t: Tensor) -> Tensor:
            """Step from the state, with drift and diffusion evaluated at ``x`` and ``t``."""
            noise_std = (self._diffusion(t)[0] * h.sqrt()).view(-1, *[1] * (x.ndim - 1))
            return self.y - h.view(noise_std.shape) * self._drift.slope(x, t, self._data) + noise_std * self._noise

        euler = euler_maruyama(self.y, self.t)
        improved = (euler + euler_maruyama(euler, t_next)) / 2
        tolerance = self._tolerances.rtol * torch.maximum(euler.abs(), self._previous.abs())
        scaled_error = (euler - improved) / tolerance.clamp(min=self._tolerances.atol)
        error = scaled_error.flatten(1).square().mean(1).sqrt()
        broken, accepted = ~error.isfinite(), error <= 1
        length = h * SAFETY * error.clamp(min=1e-12) ** -EXPONENT
        replace_where(self.length, active, torch.where(broken, h / 2, length))
        for tensor, value in ((self.y, improved), (self._previous, euler), (self.t, t_next)):
            replace_where(tensor, active & accepted, value)
        self.record(active, accepted, broken, too_short, EVALUATIONS)


MAKERS: dict[str, Callable[[AdaptiveRunner, int, Capture | None], Solve]] = {
    "rk45": FlowRunner._make_solver,
    "ggf": lambda runner, batch, capture: GottaGoFast(runner, batch, capture).run,
}
"""By name in `ADAPTIVE`, a function that makes the solver for batches of one size."""


def _noise_table(rows: int, device: torch.device) -> DeviceTable:
    """Return a table in which row i writes only noise, of draw i + 1."""
    coefficients = torch.zeros(rows, WIDTH, dtype=torch.float32, device=device)
    control = torch.zeros(rows, len(CONTROL), dtype=torch.int32, device=device)
    coefficients[:, COLUMNS.noise] = 1
    control[:, CONTROL.draw] = torch.arange(1, rows + 1, device=device)
    return DeviceTable(coefficients, control)
