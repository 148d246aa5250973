# SPDX-License-Identifier: Apache-2.0
"""Adaptive integration of a batch: tolerances, per-sample state, and the loop of attempted steps.

An attempt changes tensors of fixed shapes in place and reads nothing on the host, so that it can be captured as a
graph.  On the device each sample accepts or rejects its step and sets the length of its next one.  A sample that has
reached the end keeps its state while the others continue.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.sdes import Array
from scoresde_fast.solvers.options import Norm, require_norm

Attempt = Callable[[], None]
OnAttempt = Callable[[float], None]
"""Callback after each attempt, with the completed fraction of the slowest sample's integration."""


@dataclass(frozen=True)
class Tolerances:
    """Adaptive steps: the root mean square of the estimated error relative to ``atol`` + ``rtol`` |y| stays below 1.

    Args:
        rtol, atol: positive numbers, rtol at least 1e-13.
        norm: "sample": each sample has its own error and steps; "batch": one error and common steps for the whole
            batch, as in SciPy's ``solve_ivp`` with a batch flattened to one vector.
        max_attempts: the maximum number of attempted steps, including rejected ones.

    Raises:
        ValueError: a number is out of range, or the norm is unknown.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    norm: Norm = "sample"
    max_attempts: int = 10_000

    def __post_init__(self) -> None:
        for name, least in (("rtol", 1e-13), ("atol", 0.0)):
            value = getattr(self, name)
            if not (value >= least and value > 0 and math.isfinite(value)):
                bound = f"of at least {least:g}" if least else "greater than 0"
                raise ValueError(f"{name} is {value}; it must be a finite number {bound}")
        require_norm("error norm", self.norm)
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts}; it must be at least 1")

    def measure(self, values: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Return the RMS (B,) of ``values`` (B, N) relative to the tolerance for the states at both ends of a step."""
        allowed = self.atol + self.rtol * torch.maximum(before.abs(), after.abs())
        squares = (values / allowed).square()
        if self.norm == "batch":
            return squares.mean().sqrt().expand(len(values))
        return squares.mean(1).sqrt()


@dataclass(frozen=True, eq=False)
class FixedTimes:
    """Fixed steps between given times, the same for every sample, without error control.

    Args:
        times: (n + 1,) strictly increasing or decreasing.

    Raises:
        ValueError: the times are not monotonic.
    """

    times: Array

    def __post_init__(self) -> None:
        lengths = np.diff(self.times)
        if len(lengths) < 1 or not ((lengths > 0).all() or (lengths < 0).all()):
            raise ValueError(f"times are {self.times}; they must be at least two and strictly increase or decrease")


class Solution(NamedTuple):
    """The result of an integration.

    Attributes:
        y: (B, ...) float64, the states at the end.
        evaluations: (B,) int64, the number of slope evaluations of each sample.
    """

    y: Tensor
    evaluations: Tensor


class IntegrationError(ArithmeticError):
    """Failure to integrate a sample to the end; the message names the sample, the time and the reason.

    Attributes:
        index: the index of the first such sample in the batch.
        reason: the time and the reason, as in the message.
        y: (B, ...) float64, the last accepted state of every sample.
        t: (B,) float64, the times of these states.
    """

    def __init__(self, index: int, reason: str, y: Tensor, t: Tensor, *, name: str | None = None) -> None:
        super().__init__(f"{name or f'sample {index} of the batch'} {reason}")
        self.index, self.reason, self.y, self.t = index, reason, y, t

    def with_seeds(self, seeds: Sequence[int]) -> IntegrationError:
        """Return this error with the sample's seed in its message."""
        return IntegrationError(self.index, self.reason, self.y, self.t, name=f"the sample of seed {seeds[self.index]}")


@dataclass(frozen=True, eq=False)
class IntegrationState:
    """The tensors that attempts change in place, on one device."""

    y: Tensor  # (B, ...) float64
    t: Tensor  # (B,) float64
    length: Tensor  # (B,) float64, of the next step, positive
    rejected: Tensor  # (B,) bool, the last attempt was rejected
    broken: Tensor  # (B,) bool, the last attempt produced NaN or infinity
    done: Tensor  # (B,) bool, the end is reached
    failed: Tensor  # (B,) bool, the sample cannot continue
    evaluations: Tensor  # (B,) int64
    attempts: Tensor  # (1,) int64

    @staticmethod
    def tensors(y: Tensor) -> dict[str, Tensor]:
        """Return new tensors for the fields above, for states like ``y``."""
        zeros, flags = y.new_zeros(len(y)), y.new_zeros(len(y), dtype=torch.bool)
        return {
            "y": y.clone(),
            "t": zeros,
            "length": zeros.clone(),
            "rejected": flags,
            "broken": flags.clone(),
            "done": flags.clone(),
            "failed": flags.clone(),
            "evaluations": torch.zeros(len(y), dtype=torch.int64, device=y.device),
            "attempts": torch.zeros(1, dtype=torch.int64, device=y.device),
        }

    def reset(self, y: Tensor, start: float) -> None:
        """Start from ``y`` at the time ``start``."""
        self.y.copy_(y)
        self.t.fill_(start)
        for flag_or_count in (self.rejected, self.broken, self.done, self.failed, self.evaluations, self.attempts):
            flag_or_count.zero_()

    def record(self, end: float, *, accepted: Tensor, broken: Tensor, too_short: Tensor, evaluations: int) -> None:
        """Record the outcome (B,) of an attempt: a sample fails if its step is rejected and cannot be shorter."""
        active = ~(self.done | self.failed)
        for flag, value in ((self.rejected, ~accepted), (self.broken, broken), (self.failed, too_short & ~accepted)):
            replace_where(flag, active, value)
        self.evaluations.add_(evaluations * active)
        self.done.copy_(self.t == end)
        self.attempts.add_(1)


def replace_where(tensor: Tensor, selected: Tensor, value: Tensor) -> None:
    """Copy ``value`` (B, ...) into ``tensor`` (B, ...) for the ``selected`` samples, (B,) bool."""
    tensor.copy_(torch.where(selected.view(-1, *[1] * (tensor.ndim - 1)), value, tensor))


State = TypeVar("State", bound=IntegrationState)


class BatchIntegrator(ABC, Generic[State]):
    """Integrates batches by attempted steps.

    Args:
        start, end: two times, in either order.
        control: tolerances, or fixed times from ``start`` to ``end``.
        capture: ``capture(attempt)`` returns a replay of the captured attempt, once per batch shape; None runs attempts
            eagerly.

    Raises:
        ValueError: ``start`` equals ``end``, or the fixed times have other ends.
    """

    def __init__(
        self,
        start: float,
        end: float,
        control: Tolerances | FixedTimes,
        capture: Callable[[Attempt], Attempt] | None = None,
    ) -> None:
        if start == end:
            raise ValueError(f"the integration begins and ends at {start:g}: choose two different times")
        if isinstance(control, FixedTimes) and (control.times[0] != start or control.times[-1] != end):
            raise ValueError(
                f"the fixed times go from {control.times[0]:g} to {control.times[-1]:g}, but the integration from "
                f"{start:g} to {end:g}: make the ends equal"
            )
        self.start, self.end, self.control, self._capture = start, end, control, capture
        self._captured: dict[tuple[int, ...], tuple[State, Attempt]] = {}

    @abstractmethod
    def allocate(self, y: Tensor) -> State:
        """Return a state for batches in the shape of ``y``."""

    @abstractmethod
    def load(self, state: State, y: Tensor) -> None:
        """Start from ``y`` at the time ``start``."""

    @abstractmethod
    def attempt(self, state: State) -> None:
        """Attempt one step, in place."""

    def prepare(self, y: Tensor) -> tuple[State, Attempt]:
        """Return a state for the shape of ``y`` and its attempt; both are cached once captured."""
        key = tuple(y.shape)
        if key in self._captured:
            return self._captured[key]
        state = self.allocate(y)

        def attempt() -> None:
            self.attempt(state)

        if self._capture is None:
            return state, attempt
        self.load(state, y)
        self._captured[key] = state, self._capture(attempt)
        return self._captured[key]

    def run(self, state: State, attempt: Attempt, y: Tensor, on_attempt: OnAttempt | None) -> Solution:
        """Integrate ``y`` with the state and the attempt from `prepare`.

        Raises:
            IntegrationError: the slope is NaN or infinite, or the tolerances cannot be met within the maximum number of
                attempts; contains the states reached.
        """
        self.load(state, y)
        adaptive = isinstance(self.control, Tolerances)
        limit = len(self.control.times) - 1 if isinstance(self.control, FixedTimes) else self.control.max_attempts
        for _ in range(limit):
            # This synchronises host and device, which is cheap compared with a network's evaluations in each attempt.
            if adaptive and bool((state.done | state.failed).all()):
                break
            attempt()
            if on_attempt is not None:
                on_attempt(float(((state.t - self.start) / (self.end - self.start)).min()))
        if not bool(state.done.all()):
            raise _failure(state, limit)
        return Solution(state.y.clone(), state.evaluations.clone())


def _failure(state: IntegrationState, limit: int) -> IntegrationError:
    """Return the error of the first sample that has not reached the end after at most ``limit`` attempts."""
    index = int((~state.done).nonzero()[0])
    if bool(state.broken[index]):
        cause = ": the slope is NaN or infinite there; check the weights, and the range of the data"
    elif bool(state.failed[index]):
        cause = ": even the shortest step does not meet the tolerances; increase rtol and atol"
    else:
        cause = f" after {limit} steps; increase rtol and atol"
    reason = f"stopped at t = {float(state.t[index]):.6g}{cause}"
    return IntegrationError(index, reason, state.y.clone(), state.t.clone())
