# SPDX-License-Identifier: Apache-2.0
"""The adaptive solver of the reverse SDE of "Gotta Go Fast" (Jolicoeur-Martineau et al. 2021, algorithm 1).

A step is the mean of an Euler-Maruyama step and one taken with what the drift and the noise are at its end: stochastic
improved Euler, of which the first is the error estimate.  A step asks nothing of the host, as in
`scoresde_fast.flow.integrate`.

A refused step is tried again with other noise, as published.  That prefers noise which makes small errors: in an image
the errors of its many elements average out and nothing is seen of it; samples of a few numbers are biased by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde_fast.flow.control import Tolerances
from scoresde_fast.flow.drift import Drift, TimeCurves
from scoresde_fast.flow.errors import stopped
from scoresde_fast.flow.integrate import Attempt, OnAttempt, Solution
from scoresde_fast.flow.registers import replace_where
from scoresde_fast.ops import affine_step
from scoresde_fast.ops.step_table import COLUMNS, CONTROL, WIDTH, DeviceTable

FIRST, SAFETY, EXPONENT = 0.01, 0.9, 0.9
"""Length of the first step, and theta and r of the paper."""
EVALUATIONS = 2
"""Of the network in a step that is tried."""


@dataclass(frozen=True, eq=False)
class _Run:
    """As `scoresde_fast.flow.integrate.Run`; ``before`` is the Euler-Maruyama step of the last accepted one."""

    y: Tensor
    before: Tensor
    noise: Tensor
    sample_ids: Tensor
    t: Tensor
    length: Tensor
    refused: Tensor
    broken: Tensor
    done: Tensor
    lost: Tensor
    evaluations: Tensor
    steps: Tensor


class GottaGoFast:
    """Solves the reverse SDE from its T to ``eps``, for one batch after another.

    Args:
        drift: of the reverse SDE.
        diffusion: g, one curve.
        start, end: T and eps.
        tolerances: rtol is relative to the larger of a value and that of the step before.
        run_seed: of the noise; the step tried as the i-th has the draw i.
        noise_backend: the implementation of `scoresde_fast.ops.affine_step`, which makes it.
        capture: as in `scoresde_fast.flow.integrate.Integrator`.
    """

    def __init__(
        self,
        drift: Drift,
        diffusion: TimeCurves,
        start: float,
        end: float,
        tolerances: Tolerances,
        *,
        run_seed: int,
        noise_backend: Callable[..., None],
        capture: Callable[[Attempt], Attempt] | None = None,
    ) -> None:
        self._drift, self._diffusion, self._tolerances = drift, diffusion, tolerances
        self._start, self._end, self._run_seed, self._capture = start, end, run_seed, capture
        self._noise_backend = noise_backend
        self._ready: dict[tuple[int, ...], tuple[_Run, Attempt]] = {}

    def solve(self, x: Tensor, sample_ids: Tensor, on_attempt: OnAttempt | None = None) -> Solution:
        """From ``x`` (B, C, H, W) float64 at T; the errors are those of `Integrator.solve`."""
        run, attempt = self._prepare(x, sample_ids)
        self._load(run, x, sample_ids)
        for _ in range(self._tolerances.most_steps):
            if bool((run.done | run.lost).all()):
                break
            attempt()
            if on_attempt is not None:
                on_attempt(float(((self._start - run.t) / (self._start - self._end)).min()))
        if not bool(run.done.all()):
            raise stopped(run.y, run.t, run.done, run.lost, run.broken, self._tolerances.most_steps)
        return Solution(run.y.clone(), run.evaluations.clone(), run.y.new_zeros(0, *run.y.shape))

    def _prepare(self, x: Tensor, sample_ids: Tensor) -> tuple[_Run, Attempt]:
        key = tuple(x.shape)
        if key in self._ready:
            return self._ready[key]
        flags, numbers = torch.zeros(len(x), dtype=torch.bool, device=x.device), x.new_zeros(len(x))
        run = _Run(
            y=x.clone(),
            before=x.clone(),
            noise=torch.zeros(x.shape, dtype=torch.float32, device=x.device),
            sample_ids=sample_ids.clone(),
            t=numbers,
            length=numbers.clone(),
            refused=flags,
            broken=flags.clone(),
            done=flags.clone(),
            lost=flags.clone(),
            evaluations=torch.zeros_like(sample_ids),
            steps=torch.zeros(1, dtype=torch.int64, device=x.device),
        )
        table = _noise_table(self._tolerances.most_steps, x.device)

        def step() -> None:
            self._attempt(run, table)

        if self._capture is None:
            return run, step
        self._load(run, x, sample_ids)
        self._ready[key] = run, self._capture(step)
        return self._ready[key]

    def _load(self, run: _Run, x: Tensor, sample_ids: Tensor) -> None:
        run.y.copy_(x)
        run.before.copy_(x)
        run.sample_ids.copy_(sample_ids)
        run.t.fill_(self._start)
        run.length.fill_(FIRST)
        for register in (run.refused, run.broken, run.done, run.lost, run.evaluations, run.steps):
            register.zero_()

    def _attempt(self, run: _Run, table: DeviceTable) -> None:
        affine_step.affine_step(
            run.noise, table, counter=run.steps, sample_ids=run.sample_ids, run_seed=self._run_seed,
            implementation=self._noise_backend,
        )  # fmt: skip
        active = ~(run.done | run.lost)
        shortest = 10 * (run.t - torch.nextafter(run.t, torch.zeros_like(run.t)))
        too_short = run.refused & (run.length < shortest)
        last = run.t - torch.maximum(run.length, shortest) <= self._end
        ahead = torch.where(last, self._end, run.t - torch.maximum(run.length, shortest))
        h = torch.where(active, run.t - ahead, 0.0)

        def euler_maruyama(x: Tensor, t: Tensor) -> Tensor:
            """The state after the step, with drift and noise as they are at x and t."""
            kick = (self._diffusion(t)[0] * h.sqrt()).view(-1, *[1] * (x.ndim - 1))
            return run.y - h.view(kick.shape) * self._drift.slope(x, t) + kick * run.noise

        first = euler_maruyama(run.y, run.t)
        better = (first + euler_maruyama(first, torch.where(active, ahead, run.t))) / 2
        allowed = self._tolerances.rtol * torch.maximum(first.abs(), run.before.abs())
        scaled = (first - better) / allowed.clamp(min=self._tolerances.atol)
        error = scaled.flatten(1).square().mean(1).sqrt()
        broken = ~error.isfinite()
        moves = active & (error <= 1)
        length = h * SAFETY * error.clamp(min=1e-12) ** -EXPONENT
        replace_where(run.length, active, torch.where(broken, h / 2, length))
        replace_where(run.y, moves, better)
        replace_where(run.before, moves, first)
        replace_where(run.t, moves, ahead)
        replace_where(run.broken, active, broken)
        replace_where(run.lost, active, too_short & ~moves)
        replace_where(run.refused, active, ~moves)
        run.evaluations.add_(EVALUATIONS * active)
        run.done.copy_(run.t == self._end)
        run.steps.add_(1)


def _noise_table(rows: int, device: torch.device) -> DeviceTable:
    """Steps that leave nothing but their noise, the i-th with the draw i."""
    coefficients, control = torch.zeros(rows, WIDTH), torch.zeros(rows, len(CONTROL), dtype=torch.int32)
    coefficients[:, COLUMNS.noise] = 1
    control[:, CONTROL.draw] = torch.arange(1, rows + 1)
    return DeviceTable(coefficients.to(device), control.to(device))
