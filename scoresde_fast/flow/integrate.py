# SPDX-License-Identifier: Apache-2.0
"""Integration from one time to another, in either direction: the state of a run, one step of it, and the run.

A step changes tensors of fixed shapes in place and asks nothing of the host, so that it may be captured as a graph:
whether it is accepted, and how long the next one is, is decided on the device for every sample.  A sample that has
arrived stays as it is while others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde_fast.flow.control import Fixed, Tolerances
from scoresde_fast.flow.dormand_prince import STAGES, Slope, Tableau
from scoresde_fast.flow.errors import stopped
from scoresde_fast.flow.registers import replace_where

Attempt = Callable[[], None]
OnAttempt = Callable[[float], None]
"""Called after each step with the share of the way that the slowest sample has gone."""
LEAST_ULPS = 10
"""Spacings of float64 at t in the shortest step."""


class Solution(NamedTuple):
    """What an integration gives.

    Attributes:
        y: (B, N) float64 at the end.
        evaluations: (B,) int64, evaluations of the slope that each sample took.
        at: (K, B, N) float64, the states at the times asked for.
    """

    y: Tensor
    evaluations: Tensor
    at: Tensor


@dataclass(frozen=True, eq=False)
class Run:
    """Everything that the steps of an integration change, in place, on its device.

    Attributes:
        y, slope: (B, N) float64, the state and its slope.
        t, end: (B,) float64.
        length: (B,) float64, of the next step, positive.
        refused: (B,) bool, the step before was not accepted.
        broken: (B,) bool, the step before met NaN or infinity.
        done, lost: (B,) bool, arrived; or given up.
        evaluations: (B,) int64.
        steps: (1,) int64, steps tried.
        wanted: (K,) float64 times, and ``at`` (K, B, N) the states there.
    """

    y: Tensor
    slope: Tensor
    t: Tensor
    end: Tensor
    length: Tensor
    refused: Tensor
    broken: Tensor
    done: Tensor
    lost: Tensor
    evaluations: Tensor
    steps: Tensor
    wanted: Tensor
    at: Tensor

    @classmethod
    def empty(cls, shape: tuple[int, int], device: torch.device, wanted: Sequence[float] = ()) -> Run:
        """Registers for states (B, N), to be filled by `load`; ``wanted`` are the times of `at`."""
        states = torch.zeros(shape, dtype=torch.float64, device=device)
        numbers, flags = states.new_zeros(shape[0]), torch.zeros(shape[0], dtype=torch.bool, device=device)
        return cls(
            y=states,
            slope=states.clone(),
            t=numbers,
            end=numbers.clone(),
            length=numbers.clone(),
            refused=flags,
            broken=flags.clone(),
            done=flags.clone(),
            lost=flags.clone(),
            evaluations=torch.zeros(shape[0], dtype=torch.int64, device=device),
            steps=torch.zeros(1, dtype=torch.int64, device=device),
            wanted=torch.tensor(list(wanted), dtype=torch.float64).to(device),
            at=states.new_zeros(len(wanted), *shape),
        )

    def load(self, slope: Slope, y: Tensor, start: float, end: float, control: Tolerances | Fixed) -> None:
        """Stand before the first step; evaluates the slope once, and with tolerances once more."""
        self.y.copy_(y)
        self.at.copy_(y)
        self.t.fill_(start)
        self.end.fill_(end)
        self.slope.copy_(slope(self.y, self.t))
        length, spent = torch.zeros_like(self.t), 1
        if isinstance(control, Tolerances):
            length, spent = control.first_length(slope, self.y, self.slope, self.t, self.end), 2
        self.broken.copy_(~(self.slope.isfinite().all(1) & length.isfinite()))
        self.lost.copy_(self.broken)
        self.length.copy_(length.nan_to_num())
        self.evaluations.fill_(spent)
        for register in (self.refused, self.done, self.steps):
            register.zero_()


def attempt(run: Run, slope: Slope, tableau: Tableau, control: Tolerances | Fixed, times: Tensor | None) -> None:
    """Try one step, in place; ``times`` (n + 1,) are those of a fixed grid, on the device."""
    active = ~(run.done | run.lost)
    forward = torch.sign(run.end - run.t)
    if times is None:
        shortest = LEAST_ULPS * (torch.nextafter(run.t, run.end) - run.t).abs()
        too_short = run.refused & (run.length < shortest)
        ahead = run.t + torch.maximum(run.length, shortest) * forward
        ahead = torch.where((ahead - run.end) * forward > 0, run.end, ahead)
    else:
        too_short = active
        ahead = times.index_select(0, (run.steps + 1).clamp_(max=len(times) - 1)).expand(len(run.t))
    ahead = torch.where(active, ahead, run.t)
    h = ahead - run.t
    step = tableau.step(slope, run.y, run.slope, run.t, h)
    broken = ~step.error.isfinite().all(1)
    accepted = ~broken
    if isinstance(control, Tolerances):
        error = control.measure(step.error, run.y, step.y)
        accepted = error < 1
        replace_where(run.length, active, control.next_length(h.abs(), error, accepted, run.refused))
    moves = active & accepted
    for index, wanted in enumerate(run.wanted):
        passed = moves & ((wanted - run.t) * forward > 0) & ((wanted - ahead) * forward <= 0)
        theta = (wanted - run.t) / torch.where(moves, h, 1.0)
        between = tableau.between(run.y, step, h, theta)
        replace_where(run.at[index], passed, between)
    for register, value in ((run.y, step.y), (run.slope, step.slope), (run.t, ahead)):
        replace_where(register, moves, value)
    # A sample for which even the shortest step is refused cannot go on.
    for register, value in ((run.refused, ~accepted), (run.broken, broken), (run.lost, too_short & ~accepted)):
        replace_where(register, active, value)
    run.evaluations.add_(STAGES * active)
    run.done.copy_(run.t == run.end)
    run.steps.add_(1)


class Integrator:
    """Solves dy/dt = slope(y, t) by Dormand and Prince's method of order 5, for one batch after another.

    Args:
        slope: ``slope(y, t)``, (B, N), (B,) float64 -> (B, N) float64, each sample at a time of its own.
        start, end: two times, in either order.
        control: tolerances, or fixed times from ``start`` to ``end``.
        at: times in between, whose states are wanted too (by the continuous extension, of order 4).
        capture: turns a step into one that is replayed, once for each shape; None runs it as it is.

    Raises:
        ValueError: the times do not fit together.
    """

    def __init__(
        self,
        slope: Slope,
        start: float,
        end: float,
        control: Tolerances | Fixed,
        *,
        at: Sequence[float] = (),
        capture: Callable[[Attempt], Attempt] | None = None,
    ) -> None:
        _require(start, end, control, at)
        self._slope, self._start, self._end, self._control, self._at = slope, start, end, control, at
        self._capture = capture
        self._ready: dict[tuple[int, ...], tuple[Run, Attempt]] = {}

    def solve(self, y: Tensor, on_attempt: OnAttempt | None = None) -> Solution:
        """From ``y`` (B, N) float64 at ``start``, which is left as it is; ``on_attempt``: see `OnAttempt`.

        Raises:
            ValueError: ``y`` is not as above.
            IntegrationError: the slope is NaN or infinite, or the tolerances cannot be met within the steps allowed;
                holds what was reached.
        """
        if y.ndim != 2 or y.dtype != torch.float64:
            raise ValueError(f"y is {tuple(y.shape)} {y.dtype}; it must be (B, N) float64")
        run, attempt_step = self._prepare(y)
        run.load(self._slope, y, self._start, self._end, self._control)
        fixed = isinstance(self._control, Fixed)
        most = len(self._control.times) - 1 if isinstance(self._control, Fixed) else self._control.most_steps
        for _ in range(most):
            # The host waits for the flag: a step is six evaluations of a network, beside which that is nothing.
            if not fixed and bool((run.done | run.lost).all()):
                break
            attempt_step()
            if on_attempt is not None:
                on_attempt(float(((run.t - self._start) / (self._end - self._start)).min()))
        if not bool(run.done.all()):
            raise stopped(run.y, run.t, run.done, run.lost, run.broken, most)
        return Solution(run.y.clone(), run.evaluations.clone(), run.at.clone())

    def _prepare(self, y: Tensor) -> tuple[Run, Attempt]:
        """Registers for the shape of ``y``, and their step; kept where it was captured."""
        key = tuple(y.shape)
        if key in self._ready:
            return self._ready[key]
        run, tableau = Run.empty((len(y), y.shape[1]), y.device, self._at), Tableau(y.device)
        times = torch.from_numpy(self._control.times).to(y.device) if isinstance(self._control, Fixed) else None

        def step() -> None:
            attempt(run, self._slope, tableau, self._control, times)

        if self._capture is None:
            return run, step
        run.load(self._slope, y, self._start, self._end, self._control)
        self._ready[key] = run, self._capture(step)
        return self._ready[key]


def integrate(
    slope: Slope, y: Tensor, start: float, end: float, control: Tolerances | Fixed, *, at: Sequence[float] = ()
) -> Solution:
    """One batch by an `Integrator`, with its errors."""
    return Integrator(slope, start, end, control, at=at).solve(y)


def _require(start: float, end: float, control: Tolerances | Fixed, at: Sequence[float]) -> None:
    if start == end:
        raise ValueError(f"the integration begins and ends at {start:g}: choose two different times")
    if isinstance(control, Fixed) and (control.times[0] != start or control.times[-1] != end):
        raise ValueError(
            f"the fixed times go from {control.times[0]:g} to {control.times[-1]:g}, the integration from {start:g} to "
            f"{end:g}: make them the same"
        )
    for time in at:
        if not min(start, end) <= time <= max(start, end):
            raise ValueError(f"a state is wanted at t = {time:g}, outside the integration from {start:g} to {end:g}")
