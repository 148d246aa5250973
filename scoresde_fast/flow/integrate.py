# SPDX-License-Identifier: Apache-2.0
"""Integration of batches: tolerances, the loop of attempted steps, and RK45 (Dormand & Prince 1980).

An attempt changes tensors of fixed shapes in place and reads nothing on the host, so that it can be captured as a
graph.  Each sample accepts or rejects its step and chooses the length of its next step, on the device.  A sample that
has reached the end keeps its state while the others continue.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde_fast.sdes import Array
from scoresde_fast.solvers.options import Norm, require_norm

Attempt = Callable[[], None]
Capture = Callable[[Attempt], Attempt]
OnAttempt = Callable[[float], None]
"""Callback after each attempt, with the completed fraction of the slowest sample's integration."""
Slope = Callable[[Tensor, Tensor], Tensor]
"""``slope(y, t)``: (B, N), (B,) float64 -> (B, N) float64, with one time per sample."""

MAX_ATTEMPTS = 10_000
"""Maximum number of attempted steps, including rejected ones."""
MIN_STEP_ULPS = 10
"""The shortest step, in spacings of float64 at t."""


@dataclass(frozen=True)
class Tolerances:
    """Adaptive steps: the root mean square of the estimated error relative to ``atol`` + ``rtol`` |y| stays below 1.

    Args:
        rtol, atol: positive numbers, rtol at least 1e-13.
        norm: with "sample", each sample has its own error and steps; with "batch", the whole batch has one error and
            the same steps, as in SciPy's ``solve_ivp`` with a batch flattened to one vector.

    Raises:
        ValueError: a number is out of range, or the norm is unknown.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    norm: Norm = "sample"

    def __post_init__(self) -> None:
        for name, least in (("rtol", 1e-13), ("atol", 0.0)):
            value = getattr(self, name)
            if not (value >= least and value > 0 and math.isfinite(value)):
                bound = f"of at least {least:g}" if least else "greater than 0"
                raise ValueError(f"{name} is {value}; it must be a finite number {bound}")
        require_norm("error_norm", self.norm)

    def measure(self, values: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Return the RMS (B,) of ``values`` (B, N) relative to the tolerance for the states at both ends of a step."""
        allowed = self.atol + self.rtol * torch.maximum(before.abs(), after.abs())
        squares = (values / allowed).square()
        if self.norm == "batch":
            return squares.mean().sqrt().expand(len(values))
        return squares.mean(1).sqrt()


class Solution(NamedTuple):
    """The result of an integration.

    Attributes:
        y: (B, ...) float64, the states at the end.
        evaluations: (B,) int64, the number of slope evaluations of each sample.
        error: (B, ...) float64, for fixed steps of RK45 the sum of the steps' estimated errors, else zeros.
    """

    y: Tensor
    evaluations: Tensor
    error: Tensor


class IntegrationError(ArithmeticError):
    """Failure to integrate a sample to the end; the message names the sample, the time and the reason.

    Attributes:
        index: the index of the first failed sample in the batch.
        reason: the time and the reason, as in the message.
        y: (B, ...) float64, the last accepted state of every sample.
        t: (B,) float64, the times of these states.
    """

    def __init__(self, index: int, reason: str, y: Tensor, t: Tensor, *, name: str | None = None) -> None:
        super().__init__(f"{name or f'sample {index} of the batch'} {reason}")
        self.index, self.reason, self.y, self.t = index, reason, y, t

    def with_seeds(self, seeds: Sequence[int]) -> IntegrationError:
        """Return the same error, with the sample's seed in its message."""
        return IntegrationError(self.index, self.reason, self.y, self.t, name=f"the sample of seed {seeds[self.index]}")


class BatchIntegrator(ABC):
    """Integrates batches of one shape by attempted steps.

    Args:
        like: (B, ...) float64, a tensor of the shape and the device of the batches.
        start, end: two different times, in either order.
        control: tolerances, or the times (n + 1,) of fixed steps without error control, from ``start`` to ``end``.
        capture: returns a replay of the captured attempt; None runs attempts eagerly.
    """

    def __init__(
        self, like: Tensor, start: float, end: float, control: Tolerances | Array, capture: Capture | None = None
    ) -> None:
        self.start, self.end, self.control = start, end, control
        self.direction = math.copysign(1.0, end - start)
        self._times = None if isinstance(control, Tolerances) else torch.from_numpy(control).to(like.device)
        self._capture = capture
        self._replay: Attempt | None = None
        flags = partial(torch.zeros, len(like), dtype=torch.bool, device=like.device)
        self.y = torch.zeros_like(like)
        self.error = torch.zeros_like(like)
        self.t = like.new_zeros(len(like))
        self.length = torch.zeros_like(self.t)  # of the next step, positive
        self.rejected = flags()  # the last attempt was rejected
        self.broken = flags()  # the last attempt produced NaN or infinity
        self.done = flags()  # the end is reached
        self.failed = flags()  # the sample cannot continue
        self.evaluations = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        self.attempts = torch.zeros(1, dtype=torch.int64, device=like.device)

    def load(self, y: Tensor) -> None:
        """Start from ``y`` at the time ``start``; subclasses also set the length of the first step."""
        self.y.copy_(y)
        self.t.fill_(self.start)
        for flag_or_count in (self.rejected, self.broken, self.done, self.failed, self.evaluations, self.attempts):
            flag_or_count.zero_()
        self.error.zero_()

    @abstractmethod
    def attempt(self) -> None:
        """Attempt one step of every sample, in place."""

    def solve(self, y: Tensor, on_attempt: OnAttempt | None = None, padding: Tensor | None = None) -> Solution:
        """Integrate ``y`` (B, ...) float64, which is left unchanged.

        Samples of the ``padding``, (B,) bool, take no steps: their results are meaningless, and they cannot fail.

        Raises:
            IntegrationError: the slope is NaN or infinite, or the tolerances cannot be met within `MAX_ATTEMPTS`;
                contains the states reached.
        """
        self.load(y)
        if self._capture is not None and self._replay is None:
            self._replay = self._capture(self.attempt)
            self.load(y)  # capturing runs attempts
        if padding is not None:
            self.t.masked_fill_(padding, self.end)
            self.done.copy_(padding)
        attempt = self._replay or self.attempt
        limit = MAX_ATTEMPTS if self._times is None else len(self._times) - 1
        for _ in range(limit):
            # This synchronises host and device, which is cheap compared with a network's evaluations in each attempt.
            if self._times is None and bool((self.done | self.failed).all()):
                break
            attempt()
            if on_attempt is not None:
                on_attempt(float(((self.t - self.start) / (self.end - self.start)).min()))
        if not bool(self.done.all()):
            raise self._failure(limit)
        return Solution(self.y.clone(), self.evaluations.clone(), self.error.clone())

    def next_times(self, active: Tensor) -> tuple[Tensor, Tensor]:
        """Return the end times of the ``active`` samples' next steps, and whether a step is too short to be retried."""
        if self._times is None:
            spacing = torch.nextafter(self.t, torch.full_like(self.t, self.end)) - self.t
            shortest = MIN_STEP_ULPS * spacing.abs()
            too_short = self.rejected & (self.length < shortest)
            t_next = self.t + torch.maximum(self.length, shortest) * self.direction
            t_next = torch.where((t_next - self.end) * self.direction > 0, self.end, t_next)
        else:
            too_short = active  # a fixed step is not retried
            index = (self.attempts + 1).clamp_(max=len(self._times) - 1)
            t_next = self._times.index_select(0, index).expand(len(self.t))
        return torch.where(active, t_next, self.t), too_short

    def record(self, active: Tensor, accepted: Tensor, broken: Tensor, too_short: Tensor, evaluations: int) -> None:
        """Record the outcome (B,) of an attempt; a sample fails if its step is rejected and cannot be shortened."""
        for flag, value in ((self.rejected, ~accepted), (self.broken, broken), (self.failed, too_short & ~accepted)):
            replace_where(flag, active, value)
        self.evaluations.add_(evaluations * active)
        self.done.copy_(self.t == self.end)
        self.attempts.add_(1)

    def _failure(self, limit: int) -> IntegrationError:
        """Return the error of the first sample that has not reached the end after at most ``limit`` attempts."""
        index = int((~self.done).nonzero()[0])
        if bool(self.broken[index]):
            cause = ": the slope is NaN or infinite there; check the weights, and the range of the data"
        elif bool(self.failed[index]):
            cause = ": even the shortest step does not meet the tolerances; increase rtol and atol"
        else:
            cause = f" after {limit} steps; increase rtol and atol"
        reason = f"stopped at t = {float(self.t[index]):.6g}{cause}"
        return IntegrationError(index, reason, self.y.clone(), self.t.clone())


def replace_where(tensor: Tensor, selected: Tensor, value: Tensor) -> None:
    """Copy ``value`` (B, ...) into ``tensor`` (B, ...) for the ``selected`` samples, (B,) bool."""
    tensor.copy_(torch.where(selected.view(-1, *[1] * (tensor.ndim - 1)), value, tensor))


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


class RK45(BatchIntegrator):
    """Solves dy/dt = slope(y, t) for y (B, N); the other arguments are as in `BatchIntegrator`."""

    def __init__(
        self,
        slope: Slope,
        like: Tensor,
        start: float,
        end: float,
        control: Tolerances | Array,
        capture: Capture | None = None,
    ) -> None:
        super().__init__(like, start, end, control, capture)
        as_tensor = partial(torch.tensor, dtype=torch.float64, device=like.device)
        self._coupling = [as_tensor(row) for row in COUPLING]
        self._weights, self._error = as_tensor(WEIGHTS), as_tensor(ERROR)
        self._slope_at, self._slope = slope, torch.zeros_like(like)  # the function, and its value at the state

    def load(self, y: Tensor) -> None:
        """Start from ``y``, with one evaluation of the slope; with tolerances, another chooses the first step."""
        super().load(y)
        self._slope.copy_(self._slope_at(self.y, self.t))
        self.evaluations.fill_(1)
        if isinstance(self.control, Tolerances):
            self.length.copy_(self._first_length(self.control))
            self.evaluations.fill_(2)
        self.broken.copy_(~(self._slope.isfinite().all(1) & self.length.isfinite()))
        self.failed.copy_(self.broken)
        self.length.nan_to_num_()

    def attempt(self) -> None:
        """Attempt one step of every sample, in place."""
        active = ~(self.done | self.failed)
        t_next, too_short = self.next_times(active)
        h = t_next - self.t
        y, slope, error = self._step(h)
        broken = ~error.isfinite().all(1)
        accepted = ~broken
        if isinstance(self.control, Tolerances):
            size = self.control.measure(error, self.y, y)
            accepted = size < 1
            replace_where(self.length, active, _next_length(h.abs(), size, accepted, self.rejected))
        else:
            replace_where(self.error, active, self.error + error)
        for tensor, value in ((self.y, y), (self._slope, slope), (self.t, t_next)):
            replace_where(tensor, active & accepted, value)
        self.record(active, accepted, broken, too_short, STAGES)

    def _step(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the states after steps ``h`` (B,) of either sign, the slopes there, and the error estimates."""
        stages = self.y.new_empty(STAGES + 1, *self.y.shape)
        stages[0] = self._slope
        for stage in range(1, STAGES):
            y_stage = self.y + h[:, None] * _combine(self._coupling[stage], stages[:stage])
            stages[stage] = self._slope_at(y_stage, self.t + NODES[stage] * h)
        y_end = self.y + h[:, None] * _combine(self._weights, stages[:STAGES])
        stages[STAGES] = self._slope_at(y_end, self.t + h)
        return y_end, stages[STAGES], h[:, None] * _combine(self._error, stages)

    def _first_length(self, tolerances: Tolerances) -> Tensor:
        """Return the length (B,) of the first step (Hairer, Norsett & Wanner, II.4); this takes one evaluation."""
        y, slope, measure = self.y, self._slope, tolerances.measure
        span = (self.end - self.t).abs()
        size, rate = measure(y, y, y), measure(slope, y, y)
        small = (size < 1e-5) | (rate < 1e-5)
        trial = torch.where(small, 1e-6, 0.01 * size / rate.clamp(min=1e-300)).minimum(span)
        step = trial * self.direction
        change = measure(self._slope_at(y + step[:, None] * slope, self.t + step) - slope, y, y) / trial
        flat = (rate <= 1e-15) & (change <= 1e-15)
        steepest = torch.maximum(rate, change).clamp(min=1e-300)
        length = torch.where(flat, (1e-3 * trial).clamp(min=1e-6), (0.01 / steepest) ** (1 / (ERROR_ORDER + 1)))
        # The slope after a trial step that is too long may be NaN or infinite: start with a much shorter step.
        length = torch.where(change.isfinite(), length, 1e-3 * trial)
        return torch.minimum(100 * trial, length).minimum(span)


def _next_length(length: Tensor, error: Tensor, accepted: Tensor, rejected_before: Tensor) -> Tensor:
    """Return the next step length (B,), from the last length and its error; a step after a rejection is not longer."""
    factor = SAFETY * error.clamp(min=1e-300) ** (-1 / (ERROR_ORDER + 1))
    grown = torch.where(rejected_before, factor.clamp(max=1.0), factor.clamp(max=MAX_FACTOR))
    shrunk = torch.where(error.isfinite(), factor, MIN_FACTOR).clamp(min=MIN_FACTOR)
    return length * torch.where(accepted, grown, shrunk)


def _combine(weights: Tensor, stages: Tensor) -> Tensor:
    return (weights[None] @ stages.flatten(1)).view(stages.shape[1:])
