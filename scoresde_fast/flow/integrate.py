# SPDX-License-Identifier: Apache-2.0
"""Adaptive integration of a batch: tolerances, per-sample state, and the loop of attempted steps.

An attempt changes tensors of fixed shapes in place and reads nothing on the host, so that it can be captured as a
graph.  On the device each sample accepts or refuses its step and sets the length of its next one.  A sample that has
reached the end keeps its state while the others go on.
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
"""Callback after each attempt, with the share of the way that the slowest sample has gone."""


@dataclass(frozen=True)
class Tolerances:
    """Steps whose estimated error stays below ``atol`` + ``rtol`` |y| in the root mean square.

    Args:
        rtol, atol: positive numbers, rtol at least 1e-13.
        norm: "sample": each sample has its own error and steps; "batch": one error over the whole batch, which takes
            common steps, as SciPy's ``solve_ivp`` does with a batch flattened to one vector.
        max_attempts: attempted steps, the refused ones included, after which a sample is given up.

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
                raise ValueError(f"{name} is {value}; it must be a finite number greater than {least:g}")
        require_norm("error norm", self.norm)
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts}; it must be at least 1")

    def measure(self, values: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Return the root mean square (B,) of ``values`` (B, N) relative to the error allowed at a step's two ends."""
        allowed = self.atol + self.rtol * torch.maximum(before.abs(), after.abs())
        squares = (values / allowed).square()
        if self.norm == "batch":
            return squares.mean().sqrt().expand(len(values))
        return squares.mean(1).sqrt()


@dataclass(frozen=True, eq=False)
class FixedTimes:
    """Steps between given times, the same for every sample, without error control.

    Args:
        times: (n + 1,) strictly increasing or decreasing.

    Raises:
        ValueError: the times are not monotonic.
    """

    times: Array

    def __post_init__(self) -> None:
        lengths = np.diff(self.times)
        if len(lengths) < 1 or not ((lengths > 0).all() or (lengths < 0).all()):
            raise ValueError(f"times are {self.times}; give at least two that only increase or only decrease")


class Solution(NamedTuple):
    """The result of an integration.

    Attributes:
        y: (B, ...) float64 at the end.
        evaluations: (B,) int64, evaluations of the slope for each sample.
    """

    y: Tensor
    evaluations: Tensor


class IntegrationError(ArithmeticError):
    """A sample cannot be integrated to the end; the message says which one, where it stopped and why.

    Attributes:
        index: the first such sample of the batch.
        why: where it stopped and the reason, as in the message.
        y: (B, ...) float64, the last accepted state of every sample.
        t: (B,) float64, the times of these states.
    """

    def __init__(self, index: int, why: str, y: Tensor, t: Tensor, *, name: str | None = None) -> None:
        super().__init__(f"{name or f'sample {index} of the batch'} {why}")
        self.index, self.why, self.y, self.t = index, why, y, t

    def with_seeds(self, seeds: Sequence[int]) -> IntegrationError:
        """Return this error with the sample's seed in its message."""
        return IntegrationError(self.index, self.why, self.y, self.t, name=f"the sample of seed {seeds[self.index]}")


@dataclass(frozen=True, eq=False)
class IntegrationState:
    """The tensors that attempts change in place, on one device."""

    y: Tensor  # (B, ...) float64
    t: Tensor  # (B,) float64
    length: Tensor  # (B,) float64, of the next step, positive
    refused: Tensor  # (B,) bool, the last attempt was not accepted
    broken: Tensor  # (B,) bool, the last attempt met NaN or infinity
    done: Tensor  # (B,) bool, arrived at the end
    lost: Tensor  # (B,) bool, given up
    evaluations: Tensor  # (B,) int64
    attempts: Tensor  # (1,) int64

    @staticmethod
    def tensors(y: Tensor) -> dict[str, Tensor]:
        """Allocate the tensors above for states like ``y``."""
        numbers, flags = y.new_zeros(len(y)), y.new_zeros(len(y), dtype=torch.bool)
        return {
            "y": y.clone(),
            "t": numbers,
            "length": numbers.clone(),
            "refused": flags,
            "broken": flags.clone(),
            "done": flags.clone(),
            "lost": flags.clone(),
            "evaluations": torch.zeros(len(y), dtype=torch.int64, device=y.device),
            "attempts": torch.zeros(1, dtype=torch.int64, device=y.device),
        }

    def reset(self, y: Tensor, start: float) -> None:
        """Put ``y`` at the time ``start``, before the first attempt."""
        self.y.copy_(y)
        self.t.fill_(start)
        for flag_or_count in (self.refused, self.broken, self.done, self.lost, self.evaluations, self.attempts):
            flag_or_count.zero_()

    def record(self, end: float, accepted: Tensor, broken: Tensor, too_short: Tensor, evaluations: int) -> None:
        """Note the outcome (B,) of an attempt: a sample that refuses even the shortest step is lost."""
        active = ~(self.done | self.lost)
        for flag, value in ((self.refused, ~accepted), (self.broken, broken), (self.lost, too_short & ~accepted)):
            replace_where(flag, active, value)
        self.evaluations.add_(evaluations * active)
        self.done.copy_(self.t == end)
        self.attempts.add_(1)


def replace_where(tensor: Tensor, chosen: Tensor, value: Tensor) -> None:
    """Copy ``value`` (B, ...) into ``tensor`` (B, ...) for the samples ``chosen`` (B,)."""
    tensor.copy_(torch.where(chosen.view(-1, *[1] * (tensor.ndim - 1)), value, tensor))


State = TypeVar("State", bound=IntegrationState)


class BatchIntegrator(ABC, Generic[State]):
    """Integrates one batch after another by attempted steps.

    Args:
        start, end: two times, in either order.
        control: tolerances, or fixed times from ``start`` to ``end``.
        capture: turns an attempt into the replay of a graph, once for each batch shape; None runs it as it is.

    Raises:
        ValueError: the times do not fit together.
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
                f"the fixed times go from {control.times[0]:g} to {control.times[-1]:g}, the integration from "
                f"{start:g} to {end:g}: make them the same"
            )
        self.start, self.end, self.control, self._capture = start, end, control, capture
        self._captured: dict[tuple[int, ...], tuple[State, Attempt]] = {}

    @abstractmethod
    def allocate(self, y: Tensor) -> State:
        """Return a state for batches of the shape of ``y``."""

    @abstractmethod
    def load(self, state: State, y: Tensor) -> None:
        """Put ``y`` into the state, at ``start`` and before the first attempt."""

    @abstractmethod
    def attempt(self, state: State) -> None:
        """Try one step, in place."""

    def prepare(self, y: Tensor) -> tuple[State, Attempt]:
        """Return a state for the shape of ``y`` and its attempt; both are kept once captured."""
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
        """Integrate ``y`` with what `prepare` returned.

        Raises:
            IntegrationError: the slope is NaN or infinite, or the tolerances cannot be met within the attempts allowed;
                holds the states reached.
        """
        self.load(state, y)
        adaptive = isinstance(self.control, Tolerances)
        limit = len(self.control.times) - 1 if isinstance(self.control, FixedTimes) else self.control.max_attempts
        for _ in range(limit):
            # The host waits for this flag: little beside the evaluations of a network in each attempt.
            if adaptive and bool((state.done | state.lost).all()):
                break
            attempt()
            if on_attempt is not None:
                on_attempt(float(((state.t - self.start) / (self.end - self.start)).min()))
        if not bool(state.done.all()):
            raise _failure(state, limit)
        return Solution(state.y.clone(), state.evaluations.clone())


def _failure(state: IntegrationState, limit: int) -> IntegrationError:
    """Return the error of the first sample that has not arrived after at most ``limit`` attempts."""
    index = int((~state.done).nonzero()[0])
    where = f"stopped at t = {float(state.t[index]):.6g}"
    if bool(state.broken[index]):
        why = f"{where}: the slope is NaN or infinite there; check the weights, and the range of the data"
    elif bool(state.lost[index]):
        why = f"{where}: even the shortest step does not meet the tolerances; raise rtol and atol"
    else:
        why = f"{where} after {limit} steps; raise rtol and atol"
    return IntegrationError(index, why, state.y.clone(), state.t.clone())
