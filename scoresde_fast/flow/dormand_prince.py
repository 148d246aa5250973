# SPDX-License-Identifier: Apache-2.0
"""RK45: the Runge-Kutta pair of Dormand and Prince, of orders 5 and 4, with step-size control."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde_fast.flow.integrate import (
    Attempt,
    BatchIntegrator,
    FixedTimes,
    IntegrationState,
    OnAttempt,
    Solution,
    Tolerances,
    replace_where,
)

Slope = Callable[[Tensor, Tensor], Tensor]
"""``slope(y, t)``: (B, N), (B,) float64 -> (B, N) float64, with one time per sample."""

# Dormand & Prince 1980, table 2.
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
COUPLING = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
WEIGHTS = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
ERROR = (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)
"""The weights of order 5 minus those of order 4."""
STAGES = len(WEIGHTS)
"""Evaluations per step: the seventh stage is also the first of the next step."""
ERROR_ORDER = 4

# Hairer, Norsett & Wanner, "Solving ODEs I", II.4.
SAFETY, MIN_FACTOR, MAX_FACTOR = 0.9, 0.2, 10.0
MIN_STEP_ULPS = 10
"""The shortest step, in spacings of float64 at t."""


class Step(NamedTuple):
    """An attempted step, (B, N) each: the new state, the slope there, and the error estimate."""

    y: Tensor
    slope: Tensor
    error: Tensor


class Tableau:
    """The pair's coefficients on a device."""

    def __init__(self, device: torch.device) -> None:
        as_tensor = partial(torch.tensor, dtype=torch.float64, device=device)
        self._coupling = [as_tensor(row) for row in COUPLING]
        self._weights, self._error = as_tensor(WEIGHTS), as_tensor(ERROR)

    def step(self, slope: Slope, y: Tensor, first: Tensor, t: Tensor, h: Tensor) -> Step:
        """Step from ``y`` (B, N), where the slope is ``first``, at times ``t`` (B,) by ``h`` (B,) of either sign."""
        stages = y.new_empty(STAGES + 1, *y.shape)
        stages[0] = first
        for stage in range(1, STAGES):
            y_stage = y + h[:, None] * _combine(self._coupling[stage], stages[:stage])
            stages[stage] = slope(y_stage, t + NODES[stage] * h)
        y_end = y + h[:, None] * _combine(self._weights, stages[:STAGES])
        stages[STAGES] = slope(y_end, t + h)
        return Step(y_end, stages[STAGES], h[:, None] * _combine(self._error, stages))


def _combine(weights: Tensor, stages: Tensor) -> Tensor:
    return (weights[None] @ stages.flatten(1)).view(stages.shape[1:])


@dataclass(frozen=True, eq=False)
class RK45State(IntegrationState):
    """`IntegrationState` with the tensors of RK45."""

    slope: Tensor  # (B, N) float64, at y
    tableau: Tableau
    times: Tensor | None  # (n + 1,) of fixed steps; None with tolerances


class RK45(BatchIntegrator[RK45State]):
    """Solves dy/dt = slope(y, t); the other arguments and the errors are as in `BatchIntegrator`."""

    def __init__(
        self,
        slope: Slope,
        start: float,
        end: float,
        control: Tolerances | FixedTimes,
        capture: Callable[[Attempt], Attempt] | None = None,
    ) -> None:
        super().__init__(start, end, control, capture)
        self._slope, self._direction = slope, math.copysign(1.0, end - start)

    def solve(self, y: Tensor, on_attempt: OnAttempt | None = None) -> Solution:
        """Integrate ``y`` (B, N) float64, which is left unchanged.

        Raises:
            ValueError: ``y`` has another shape or dtype.
            IntegrationError: see `BatchIntegrator.run`.
        """
        if y.ndim != 2 or y.dtype != torch.float64:
            raise ValueError(f"y has shape {tuple(y.shape)} and dtype {y.dtype}; it must be (B, N) float64")
        return self.run(*self.prepare(y), y, on_attempt)

    def allocate(self, y: Tensor) -> RK45State:
        """Return a state for batches in the shape of ``y``."""
        times = torch.from_numpy(self.control.times).to(y.device) if isinstance(self.control, FixedTimes) else None
        return RK45State(**RK45State.tensors(y), slope=torch.zeros_like(y), tableau=Tableau(y.device), times=times)

    def load(self, state: RK45State, y: Tensor) -> None:
        """Start from ``y``; evaluates the slope once, and with tolerances once more."""
        state.reset(y, self.start)
        state.slope.copy_(self._slope(state.y, state.t))
        state.evaluations.fill_(1)
        if isinstance(self.control, Tolerances):
            state.length.copy_(self._first_length(self.control, state))
            state.evaluations.fill_(2)
        state.broken.copy_(~(state.slope.isfinite().all(1) & state.length.isfinite()))
        state.failed.copy_(state.broken)
        state.length.nan_to_num_()

    def attempt(self, state: RK45State) -> None:
        """Attempt one step, in place."""
        active = ~(state.done | state.failed)
        if state.times is None:
            spacing = torch.nextafter(state.t, torch.full_like(state.t, self.end)) - state.t
            shortest = MIN_STEP_ULPS * spacing.abs()
            too_short = state.rejected & (state.length < shortest)
            t_next = state.t + torch.maximum(state.length, shortest) * self._direction
            t_next = torch.where((t_next - self.end) * self._direction > 0, self.end, t_next)
        else:
            too_short = active  # a fixed step is not retried
            index = (state.attempts + 1).clamp_(max=len(state.times) - 1)
            t_next = state.times.index_select(0, index).expand(len(state.t))
        t_next = torch.where(active, t_next, state.t)
        h = t_next - state.t
        step = state.tableau.step(self._slope, state.y, state.slope, state.t, h)
        broken = ~step.error.isfinite().all(1)
        accepted = ~broken
        if isinstance(self.control, Tolerances):
            error = self.control.measure(step.error, state.y, step.y)
            accepted = error < 1
            replace_where(state.length, active, _next_length(h.abs(), error, accepted, state.rejected))
        for tensor, value in ((state.y, step.y), (state.slope, step.slope), (state.t, t_next)):
            replace_where(tensor, active & accepted, value)
        state.record(self.end, accepted=accepted, broken=broken, too_short=too_short, evaluations=STAGES)

    def _first_length(self, tolerances: Tolerances, state: RK45State) -> Tensor:
        """Return the length (B,) of the first step (Hairer, Norsett & Wanner, II.4), with one evaluation."""
        y, slope, t, measure = state.y, state.slope, state.t, tolerances.measure
        span = (self.end - t).abs()
        size, rate = measure(y, y, y), measure(slope, y, y)
        small = (size < 1e-5) | (rate < 1e-5)
        trial = torch.where(small, 1e-6, 0.01 * size / rate.clamp(min=1e-300)).minimum(span)
        trial_slope = self._slope(y + (trial * self._direction)[:, None] * slope, t + trial * self._direction)
        change = measure(trial_slope - slope, y, y) / trial
        flat = (rate <= 1e-15) & (change <= 1e-15)
        steepest = torch.maximum(rate, change).clamp(min=1e-300)
        length = torch.where(flat, (1e-3 * trial).clamp(min=1e-6), (0.01 / steepest) ** (1 / (ERROR_ORDER + 1)))
        # The slope after a trial step that is too long may be NaN or infinite: start with a much shorter step.
        length = torch.where(change.isfinite(), length, 1e-3 * trial)
        return torch.minimum(100 * trial, length).minimum(span)


def _next_length(length: Tensor, error: Tensor, accepted: Tensor, rejected_before: Tensor) -> Tensor:
    """Return the next step length (B,), from the last length and its error; after a rejection it does not grow."""
    factor = SAFETY * error.clamp(min=1e-300) ** (-1 / (ERROR_ORDER + 1))
    grown = torch.where(rejected_before, factor.clamp(max=1.0), factor.clamp(max=MAX_FACTOR))
    shrunk = torch.where(error.isfinite(), factor, MIN_FACTOR).clamp(min=MIN_FACTOR)
    return length * torch.where(accepted, grown, shrunk)
