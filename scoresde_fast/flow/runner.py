# SPDX-License-Identifier: Apache-2.0
"""The probability flow of a model, run between data and prior in batches, with its divergence where it is wanted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from scoresde_fast.devices import Auto, choose_capture, usable_device
from scoresde_fast.errors import unknown
from scoresde_fast.flow.control import Fixed, Tolerances
from scoresde_fast.flow.drift import Drift
from scoresde_fast.flow.errors import IntegrationError
from scoresde_fast.flow.integrate import Integrator, OnAttempt, Solution
from scoresde_fast.loop.capture import GraphCapture
from scoresde_fast.loop.lanes import lane_count, run_parts, split
from scoresde_fast.loop.strict import chunk_size, chunks
from scoresde_fast.loop.watch import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.ops.normal import normal
from scoresde_fast.ops.rademacher import rademacher
from scoresde_fast.precision import Precision, arithmetic, choose_precision
from scoresde_fast.sdes import SDE
from scoresde_fast.solvers import make_grid
from scoresde_fast.solvers.options import Norm

ProbeKind = Literal["rademacher", "normal", "exact"]

PROGRESS = 1000
"""Parts of the way that progress is told in."""
Item = tuple[int | None, int]
"""A row of the states and its id; no row: the id only fills its place."""


@dataclass(frozen=True)
class Probes:
    """How the divergence is found.

    Args:
        kind: "rademacher" or "normal": Hutchinson's estimate by fields of such numbers; "exact": the trace itself, by
            as many tangents as an image has elements.
        count: fields a sample.
        draw: the number of the first field in the run, see `scoresde_fast.rng`.

    Raises:
        ValueError: the kind is unknown, ``count`` is below 1, or there is more than one exact trace.
    """

    kind: ProbeKind = "rademacher"
    count: int = 1
    draw: int = 2

    def __post_init__(self) -> None:
        if self.kind not in get_args(ProbeKind):
            raise ValueError(unknown("kind of probe", self.kind, get_args(ProbeKind)))
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ValueError(f"the number of probes is {self.count!r}; it must be a whole number of at least 1")
        if self.kind == "exact" and self.count > 1:
            raise ValueError(f"{self.count} probes: the exact trace needs none; leave the number out")


@dataclass(frozen=True)
class FlowSettings:
    """How the flow is solved.

    Args:
        rtol, atol: tolerances of each step.
        error_norm: "sample": each sample has steps of its own; "batch": as the original, all go by the batch's error.
        steps: fixed steps in place of tolerances; six evaluations each.
        grid: of the fixed steps, see `scoresde_fast.solvers.grids`.
        eps: the data's time; None takes 1e-5, as the original does for likelihoods.
        device, batch_size, precision, capture, strict: as in `scoresde_fast.Sampler`; "auto" precision is fp32 here.
        run_seed: of every random number.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    error_norm: Norm = "sample"
    steps: int | None = None
    grid: str = "logsnr"
    eps: float | None = None
    device: torch.device | str = "cpu"
    batch_size: int = 64
    precision: Precision = "auto"
    capture: bool | Auto = "auto"
    strict: bool = False
    run_seed: int = 0

    def control(self, sde: SDE, *, to_data: bool) -> Tolerances | Fixed:
        """Tolerances, or the times of the fixed steps, which go down to the data or up from it."""
        if self.steps is None:
            return Tolerances(self.rtol, self.atol, self.error_norm)
        grid = make_grid(self.grid, sde, self.steps, self.low(sde), published=False)
        down = np.append(grid.times, grid.ends[-1])
        down[-1] = self.low(sde)
        return Fixed(down if to_data else down[::-1].copy())

    def low(self, sde: SDE) -> float:
        """The data's time.

        Raises:
            ValueError: it is not inside (0, T).
        """
        low = 1e-5 if self.eps is None else self.eps
        if not 0 < low < sde.T:
            raise ValueError(f"eps is {low!r}; it must be greater than 0 and smaller than {sde.T:g}")
        return low


class Flowed(NamedTuple):
    """Where the flow has led: states (N, *state_shape) float64, evaluations (N,), integrated divergences (N, P)."""

    states: Tensor
    evaluations: Tensor
    divergence: Tensor


class FlowRunner:
    """Runs a model's probability flow in one direction.

    Args:
        model: it is moved to the device and put in evaluation mode; its network may be replaced or changed between two
            runs.
        settings: see `FlowSettings`.
        to_data: from T down to the data's time, else up.
        probes: None: the divergence is not wanted.

    Raises:
        ValueError: a setting is out of its range, or the model is not one of continuous time.
    """

    def __init__(
        self, model: ScoreFunction, settings: FlowSettings, *, to_data: bool, probes: Probes | None = None
    ) -> None:
        if settings.batch_size < 1:
            raise ValueError(f"batch_size is {settings.batch_size}; it must be at least 1")
        if settings.strict and settings.error_norm == "batch" and settings.steps is None:
            raise ValueError("strict=True cannot keep error_norm='batch', by which a sample depends on its batch")
        self.device = usable_device(settings.device)
        self.model = model.to(self.device).eval()
        self.settings, self.probes = settings, probes
        self.precision = choose_precision("fp32" if settings.precision == "auto" else settings.precision, self.device)
        self.control = settings.control(model.sde, to_data=to_data)
        low, high = settings.low(model.sde), model.sde.T
        self.start, self.end = (high, low) if to_data else (low, high)
        self._drift = self._make_drift()
        self._graphs = GraphCapture(self.model, self.device, wanted=choose_capture(settings.capture, self.device))
        self._ready: dict[int, _Work] = {}

    def run(self, states: Tensor, ids: Sequence[int], on_step: OnStep | None = None) -> Flowed:
        """Of states (N, *state_shape), whose random numbers are those of ``ids`` (N,).

        Raises:
            IntegrationError: NaN or infinity, or tolerances that cannot be met; holds what was reached in its batch.
        """
        if self._drift.stale():
            self._drift = self._make_drift()
            self._ready.clear()
            self._graphs.release()
        shape, count = self.model.state_shape, self.probes.count if self.probes else 0
        size = math.prod(shape)
        result = torch.zeros(len(states), size + count + 1, dtype=torch.float64)
        with forward_ad.dual_level() if self.probes else nullcontext():
            for batch in self._batches(ids):
                values = self._run_batch(states, batch, on_step)
                wanted = [place for place, (row, _) in enumerate(batch) if row is not None]
                result[[row for row, _ in batch if row is not None]] = values[wanted]
        flowed, divergence, evaluations = result.split([size, count, 1], dim=1)
        return Flowed(flowed.view(len(states), *shape), evaluations[:, 0].long(), divergence)

    @torch.no_grad()
    def _make_drift(self) -> Drift:
        return Drift(self.model, self.settings.low(self.model.sde), self.precision, device=self.device)

    def _batches(self, ids: Sequence[int]) -> Iterator[list[Item]]:
        """Batches of what is to be run; with ``strict`` every id has its place in a batch of one size."""
        rows = {seed: row for row, seed in enumerate(ids)}
        if self.settings.strict:
            if len(rows) < len(ids):
                raise ValueError("strict=True gives every seed a place of its own: give each sample another seed")
            for chunk in chunks(ids, chunk_size(self.model.image_shape, self.device)):
                yield [(rows.get(seed), seed) for seed in chunk]
            return
        items: list[Item] = list(enumerate(ids))
        for start in range(0, len(items), self.settings.batch_size):
            yield items[start : start + self.settings.batch_size]

    def _run_batch(self, states: Tensor, batch: list[Item], on_step: OnStep | None) -> Tensor:
        lanes = 1 if self.settings.strict or self._whole_batch else lane_count(len(batch), self.device)
        work, parts = partial(self._run_part, states), split(batch, lanes)
        return torch.cat(run_parts(work, parts, lanes if lanes > 1 else None, on_step))

    @property
    def _whole_batch(self) -> bool:
        return isinstance(self.control, Tolerances) and self.control.norm == "batch"

    @torch.no_grad()
    def _run_part(self, states: Tensor, items: Sequence[Item], on_step: OnStep | None) -> Tensor:
        def on_attempt(share: float) -> None:
            assert on_step is not None
            on_step(int(PROGRESS * share), PROGRESS)

        rows = [row or 0 for row, _ in items]
        ids = torch.tensor([seed for _, seed in items], device=self.device)
        with arithmetic(self.precision, self.device, strict=self.settings.strict):
            work = self._ready.get(len(items)) or _Work(self, len(items), self._graphs)
            if self._graphs.wanted:
                self._ready[len(items)] = work
            try:
                solution = work.solve(states[rows].to(self.device, torch.float64), ids, on_step and on_attempt)
            except IntegrationError as error:
                raise error.named([seed for _, seed in items]) from None
        return torch.cat([solution.y, solution.evaluations[:, None]], dim=1).cpu()


class _Work:
    """The flow of batches of one size, with the fields of its probes in memory that a captured step reads."""

    def __init__(self, runner: FlowRunner, batch: int, graphs: GraphCapture) -> None:
        self._runner, self._drift, self._shape = runner, runner._drift, runner.model.state_shape
        self._size = math.prod(self._shape)
        count = runner.probes.count if runner.probes is not None and runner.probes.kind != "exact" else 0
        self._fields = torch.zeros(count, batch, *runner.model.image_shape, device=runner.device)
        self._ids = torch.zeros(batch, dtype=torch.int64, device=runner.device)
        capture = graphs.step if graphs.wanted else None
        self._integrator = Integrator(self._slope, runner.start, runner.end, runner.control, capture=capture)

    def solve(self, states: Tensor, ids: Tensor, on_attempt: OnAttempt | None) -> Solution:
        """Of states (B, *state_shape) float64."""
        probes = self._runner.probes
        self._ids.copy_(ids)
        for index, field in enumerate(self._fields):
            assert probes is not None
            make = rademacher if probes.kind == "rademacher" else normal
            field.copy_(make(ids, self._runner.settings.run_seed, probes.draw + index, self._runner.model.image_shape))
        begin = states.flatten(1)
        if probes is not None:
            begin = torch.cat([begin, begin.new_zeros(len(begin), probes.count)], dim=1)
        return self._integrator.solve(begin, on_attempt)

    def _slope(self, y: Tensor, t: Tensor) -> Tensor:
        u, probes = y[:, : self._size].view(len(y), *self._shape), self._runner.probes
        if probes is None:
            return self._drift.slope(u, t).flatten(1)
        if probes.kind == "exact":
            slope, trace = self._drift.slope_and_exact_trace(u, t)
        else:
            slope, trace = self._drift.slope_and_trace(
                u, t, self._fields, self._ids, probes.draw, probes.kind, self._runner.settings.run_seed
            )
        return torch.cat([slope.flatten(1), trace], dim=1)
