# SPDX-License-Identifier: Apache-2.0
"""Integration of a model's probability flow between data and prior, in batches on a device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from scoresde_fast.devices import arithmetic, choose_capture, choose_precision, usable_device
from scoresde_fast.fingerprint import describe_model
from scoresde_fast.flow.dormand_prince import RK45
from scoresde_fast.flow.drift import Drift
from scoresde_fast.flow.integrate import Attempt, FixedTimes, IntegrationError, OnAttempt, Solution, Tolerances
from scoresde_fast.flow.options import FlowOptions, Probes
from scoresde_fast.loop.batch_size import fitting_batch
from scoresde_fast.loop.batches import Batches
from scoresde_fast.loop.capture import GraphCapture
from scoresde_fast.loop.fallback import fits_in_memory
from scoresde_fast.loop.loop import StepBackends
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.loop.workers import in_worker
from scoresde_fast.model import ScoreFunction
from scoresde_fast.ops.normal import normal
from scoresde_fast.ops.rademacher import rademacher
from scoresde_fast.run_options import RunOptions, names, split_options
from scoresde_fast.sdes import SDE
from scoresde_fast.solvers import make_grid

MAX_PADDING = 4
"""A captured batch also serves smaller batches, down to its size divided by this."""
PROGRESS = 1000
"""Units of progress of a run: the number of evaluations is not known in advance."""


class FlowResult(NamedTuple):
    """Where the integration ends.

    Attributes:
        states: (B, *state_shape) float64.
        evaluations: (B,) int64, of the network for each sample.
        divergence: (B, P) float64, its integral as estimated by each probe.
    """

    states: Tensor
    evaluations: Tensor
    divergence: Tensor


class FlowSolver(Protocol):
    """Integrates batches of one size."""

    def solve(self, states: Tensor, sample_ids: Tensor, on_attempt: OnAttempt | None = None) -> Solution:
        """Integrate states (B, *state_shape) float64."""


class FlowRunner:
    """Integrates batches of a model's reverse process on a device, with separate steps for each sample.

    Args:
        model: on its device, in evaluation mode; its network may be replaced or changed between two runs.
        device: the model's.
        run: precision ("auto" is fp32), capture of a step, strictness, backend and run seed.
        control: tolerances, or the times of fixed steps.
        start, end: T and the time of the data, in either order.
        probes: how to compute the divergence; None leaves it out.
        probability_flow: the drift is that of the probability flow, else of the reverse SDE.

    Raises:
        ValueError: the device lacks the precision or cannot capture, compilation is asked for, the model is not one of
            continuous time, or ``strict`` meets the error norm of a batch.
        RuntimeError: the backend cannot run here; says why.
    """

    def __init__(
        self,
        model: ScoreFunction,
        device: torch.device,
        run: RunOptions,
        control: Tolerances | FixedTimes,
        start: float,
        end: float,
        *,
        probes: Probes | None = None,
        probability_flow: bool = True,
    ) -> None:
        self.batch_dependent = isinstance(control, Tolerances) and control.norm == "batch"
        if run.compile is True:
            raise ValueError("compile=True: a solver with separate times for each sample cannot compile; leave it out")
        if run.strict and self.batch_dependent:
            raise ValueError(
                "strict=True excludes error_norm='batch', by which a sample depends on its batch: "
                "choose error_norm='sample'"
            )
        self.model, self.device, self.run_options, self.probes = model, device, run, probes
        self.precision = choose_precision("fp32" if run.precision == "auto" else run.precision, device)
        self.control, self.start, self.end, self.probability_flow = control, start, end, probability_flow
        self.backends = StepBackends.choose(device, run.backend)
        self._graphs = GraphCapture(model, device, wanted=choose_capture(run.capture, device))
        self._drift: Drift | None = None
        self._captured: dict[int, FlowSolver] = {}
        self._with_tangents = False
        self.refresh()

    @property
    def evaluation(self) -> str:
        """What a step evaluates, in words; see `Runner`."""
        return "slope" if self.probes is None else f"slope and {self.probes.count} {self.probes.kind}"

    @property
    def drift(self) -> Drift:
        """The drift of the current network."""
        self.refresh()
        assert self._drift is not None
        return self._drift

    def refresh(self) -> None:
        """Rebuild everything that depends on the network if it has changed."""
        if self._drift is not None and not self._drift.stale():
            return
        self.release()
        # Folding may depend on the number of threads in its last bits: on a CPU it always has one.
        if self.device.type == "cpu":
            in_worker(self._make)
        else:
            self._make()

    def release(self) -> None:
        """Free the memory held on the device."""
        self._drift = None
        self._captured.clear()
        self._graphs.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def tangents(self) -> Iterator[None]:
        """Enter the dual level that `solve` needs with probes; once for all CPU workers, as PyTorch has one level."""
        if self.probes is None or self._with_tangents:
            yield
            return
        self._with_tangents = True
        try:
            with forward_ad.dual_level():
                yield
        finally:
            self._with_tangents = False

    def size_for(self, batch: int, full: int) -> int:
        """Return the captured size that serves ``batch`` samples, by default ``full``; 0 without capture: any size."""
        if not self._graphs.wanted:
            return 0
        return min((size for size in self._captured if batch <= size <= MAX_PADDING * batch), default=full)

    def prepare(self, batch: int) -> None:
        """Do nothing: a batch is prepared as it runs."""

    @torch.no_grad()
    def solve(self, states: Tensor, seeds: Sequence[int], on_step: OnStep | None = None) -> FlowResult:
        """Integrate states (B, *state_shape) on the device, with the random numbers of the seeds.

        With ``probes`` it must be called inside `tangents`.

        Raises:
            IntegrationError: the slope is NaN or infinite, or the tolerances cannot be met; holds the states reached.
        """

        def on_attempt(share: float) -> None:
            assert on_step is not None
            on_step(int(PROGRESS * share), PROGRESS)

        size = math.prod(self.model.state_shape)
        ids = torch.tensor(seeds, dtype=torch.int64, device=self.device)
        with arithmetic(self.precision, self.device, strict=self.run_options.strict):
            try:
                solution = self._solver(len(states)).solve(states.double(), ids, on_step and on_attempt)
            except IntegrationError as error:
                raise error.with_seeds(seeds) from None
        flat = solution.y.flatten(1)
        return FlowResult(flat[:, :size].view(states.shape), solution.evaluations, flat[:, size:])

    def fits(self, batch: int) -> bool:
        """Return whether an evaluation of that many samples fits in memory; frees what was prepared."""
        return fits_in_memory(partial(self._evaluate_once, batch), self.release)

    @torch.no_grad()
    def _evaluate_once(self, batch: int) -> None:
        with self.tangents(), arithmetic(self.precision, self.device, strict=self.run_options.strict):
            states = torch.zeros(batch, *self.model.state_shape, device=self.device, dtype=torch.float64)
            ids = torch.zeros(batch, dtype=torch.int64, device=self.device)
            _ProbedFlow(self, batch, None).evaluate(states, ids)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _make(self) -> None:
        low, backend = min(self.start, self.end), self.run_options.backend
        self._drift = Drift(
            self.model, low, self.precision, probability_flow=self.probability_flow, device=self.device, backend=backend
        )

    def _solver(self, batch: int) -> FlowSolver:
        """Return the solver of batches of that size; one with a captured step is kept, with its memory."""
        if batch in self._captured:
            return self._captured[batch]
        solver = self._make_solver(batch, self._graphs.step if self._graphs.wanted else None)
        if self._graphs.wanted:
            self._captured[batch] = solver
        return solver

    def _make_solver(self, batch: int, capture: Callable[[Attempt], Attempt] | None) -> FlowSolver:
        return _ProbedFlow(self, batch, capture)


class ProbabilityFlow(FlowRunner):
    """Integrates any number of samples between data and prior: the base of encoding, decoding and likelihoods.

    Args:
        model: any `ScoreFunction` of continuous time; it is moved to the device and put in evaluation mode.
        to_data: integrate from T down to the time of the data, else up.
        probes: how to compute the divergence; None leaves it out.
        defaults: values of options that the user leaves out.
        options: those of `FlowOptions` and `RunOptions`.

    Raises:
        TypeError: an option is unknown.
        ValueError: an option is out of its range, or the model is not one of continuous time.
    """

    def __init__(
        self,
        model: ScoreFunction,
        *,
        to_data: bool,
        probes: Probes | None = None,
        defaults: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        given, run = split_options(options, names(FlowOptions))
        self.options = FlowOptions(**{**(defaults or {}), **given})
        device = usable_device(run.device)
        low, high = self.options.eps, model.sde.T
        if not 0 < low < high:
            raise ValueError(f"eps is {low!r}; it must be greater than 0 and smaller than {high:g}")
        start, end = (high, low) if to_data else (low, high)
        control = _control(self.options, model.sde, to_data=to_data)
        super().__init__(model.to(device).eval(), device, run, control, start, end, probes=probes)
        self.batch_size = run.batch_size if run.batch_size != "auto" else fitting_batch(self.model, self)

    def run(self, states: Tensor, seeds: Sequence[int], on_step: OnStep | None = None) -> FlowResult:
        """Integrate states (N, *state_shape) with the random numbers of their seeds; the result is on the CPU.

        Raises:
            ValueError: two samples have the same seed with ``strict``.
            IntegrationError: the slope is NaN or infinite, or the tolerances cannot be met; holds the batch's states.
        """
        strict = self.run_options.strict
        if strict and len(set(seeds)) < len(seeds):
            raise ValueError("strict=True gives every seed its own place in a batch: give each sample a different seed")

        def work(rows: Sequence[int], on_step: OnStep | None) -> Tensor:
            begin = states[list(rows)].to(self.device, torch.float64)
            found = self.solve(begin, [seeds[row] for row in rows], on_step)
            return torch.cat([found.states.flatten(1), found.divergence, found.evaluations[:, None]], dim=1).cpu()

        batches = Batches(self, work, self.model.image_shape, strict=strict)
        full = len(states) if strict else min(self.batch_size, len(states))
        size, probes = math.prod(self.model.state_shape), self.probes.count if self.probes else 0
        results = [torch.zeros(0, size + probes + 1, dtype=torch.float64)]
        with self.tangents():
            for start in range(0, len(states), max(1, full)):
                rows = range(start, min(start + full, len(states)))
                results.append(batches.run(rows, [seeds[row] for row in rows], full, on_step))
        flat, divergence, evaluations = torch.cat(results).split([size, probes, 1], dim=1)
        return FlowResult(flat.view(len(states), *self.model.state_shape), evaluations[:, 0].long(), divergence)

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the numbers, as plain values."""
        run = self.run_options
        return {
            "model": describe_model(self.model),
            **asdict(self.options),
            "strict": run.strict,
            "run_seed": run.run_seed,
            "precision": self.precision,
            **({"batch_size": self.batch_size} if self.batch_dependent else {}),
        }


def _control(options: FlowOptions, sde: SDE, *, to_data: bool) -> Tolerances | FixedTimes:
    if options.steps is None:
        return Tolerances(options.rtol, options.atol, options.error_norm)
    grid = make_grid(options.grid, sde, options.steps, options.eps, published=False)
    down = np.append(grid.times, options.eps)
    return FixedTimes(down if to_data else down[::-1].copy())


class _ProbedFlow:
    """RK45 on the flow of batches of one size, extended by the divergence along each probe."""

    def __init__(self, runner: FlowRunner, batch: int, capture: Callable[[Attempt], Attempt] | None) -> None:
        self._runner, self._drift, self._model = runner, runner.drift, runner.model
        self._size = math.prod(self._model.state_shape)
        count = runner.probes.count if runner.probes is not None and runner.probes.kind != "exact" else 0
        self._fields = torch.zeros(count, batch, *self._model.image_shape, device=runner.device)
        self._ids = torch.zeros(batch, dtype=torch.int64, device=runner.device)
        self._rk45 = RK45(self._slope, runner.start, runner.end, runner.control, capture)

    def solve(self, states: Tensor, sample_ids: Tensor, on_attempt: OnAttempt | None = None) -> Solution:
        """Integrate states (B, *state_shape) float64."""
        return self._rk45.solve(self._begin(states, sample_ids), on_attempt)

    def evaluate(self, states: Tensor, sample_ids: Tensor) -> Tensor:
        """Evaluate one slope at the start, to see whether it fits in memory."""
        start = torch.full((len(states),), self._runner.start, dtype=torch.float64, device=states.device)
        return self._slope(self._begin(states, sample_ids), start)

    def _begin(self, states: Tensor, sample_ids: Tensor) -> Tensor:
        """Return (B, N), the states and zeros for the divergences; draws the probes."""
        probes, run = self._runner.probes, self._runner.run_options
        begin = states.flatten(1)
        if probes is not None:
            self._ids.copy_(sample_ids)
            draw = rademacher if probes.kind == "rademacher" else normal
            for index, field in enumerate(self._fields):
                field.copy_(draw(sample_ids, run.run_seed, probes.draw + index, self._model.image_shape))
            begin = torch.cat([begin, begin.new_zeros(len(begin), probes.count)], dim=1)
        return begin

    def _slope(self, y: Tensor, t: Tensor) -> Tensor:
        u, probes = y[:, : self._size].view(len(y), *self._model.state_shape), self._runner.probes
        if probes is None:
            return self._drift.slope(u, t).flatten(1)
        if probes.kind == "exact":
            slope, trace = self._drift.slope_and_exact_trace(u, t)
        else:
            slope, trace = self._drift.slope_and_trace(
                u, t, self._fields, self._ids, probes.draw, probes.kind, self._runner.run_options.run_seed
            )
        return torch.cat([slope.flatten(1), trace], dim=1)
