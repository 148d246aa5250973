# SPDX-License-Identifier: Apache-2.0
"""The one runner of the flow: a model's drift integrated on a device, batch after batch, for whoever needs it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from scoresde_fast.devices import arithmetic, choose_capture, choose_precision
from scoresde_fast.flow.control import Fixed, Tolerances
from scoresde_fast.flow.drift import Drift, TimeCurves
from scoresde_fast.flow.errors import IntegrationError
from scoresde_fast.flow.gotta_go_fast import GottaGoFast
from scoresde_fast.flow.integrate import Attempt, Integrator, OnAttempt, Solution
from scoresde_fast.flow.options import Probes
from scoresde_fast.loop.capture import GraphCapture
from scoresde_fast.loop.fallback import fits_in_memory
from scoresde_fast.loop.loop import StepBackends
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.loop.workers import in_worker
from scoresde_fast.model import ScoreFunction
from scoresde_fast.ops.normal import normal
from scoresde_fast.ops.rademacher import rademacher
from scoresde_fast.run_options import RunOptions
from scoresde_fast.sdes import ScalarSDE

MOST_PADDING = 4
"""A captured batch serves one of at least this part of its size."""
PROGRESS = 1000
"""Parts of the way that progress is told in: how many evaluations there will be is not known."""


class Flowed(NamedTuple):
    """Where a run has led.

    Attributes:
        states: (B, *state_shape) float64.
        evaluations: (B,) int64, of the network in each sample's run.
        divergence: (B, P) float64, its integral by each probe.
    """

    states: Tensor
    evaluations: Tensor
    divergence: Tensor


class FlowRunner:
    """Solves a model's probability flow, or its reverse SDE by "ggf", every sample with steps of its own.

    Args:
        model: on its device, in evaluation mode; its network may be replaced or changed between two runs.
        device: the model's.
        run: precision ("auto" is fp32), capture of a step, strictness, backend and run seed.
        control: tolerances, or the times of fixed steps.
        start, end: the times to go from and to; the SDE's T and the data's, in either order.
        probes: how the divergence is found; None: it is not wanted.
        reverse_sde: "ggf", from T down.

    Raises:
        ValueError: the device lacks the precision, or cannot capture; the network is to be compiled; the model is not
            one of continuous time; or ``strict`` meets steps by the batch's error.
        RuntimeError: the backend cannot run here; says why.
    """

    def __init__(
        self,
        model: ScoreFunction,
        device: torch.device,
        run: RunOptions,
        control: Tolerances | Fixed,
        start: float,
        end: float,
        *,
        probes: Probes | None = None,
        reverse_sde: bool = False,
    ) -> None:
        self.batch_dependent = isinstance(control, Tolerances) and control.norm == "batch"
        if run.compile is True:
            raise ValueError("compile=True: a solver that takes each sample's own times is not compiled; leave it out")
        if run.strict and self.batch_dependent:
            raise ValueError(
                "strict=True cannot keep error_norm='batch', by which a sample depends on its batch: "
                "choose error_norm='sample'"
            )
        self.model, self.device, self.run_options, self.probes = model, device, run, probes
        self.precision = choose_precision("fp32" if run.precision == "auto" else run.precision, device)
        self.control, self.start, self.end, self._reverse_sde = control, start, end, reverse_sde
        self._backends = StepBackends.choose(device, run.backend)
        self._graphs = GraphCapture(model, device, wanted=choose_capture(run.capture, device))
        self._drift: Drift | None = None
        self._ready: dict[int, _ProbedFlow | GottaGoFast] = {}
        self._with_tangents = False
        self.refresh()

    @property
    def evaluation(self) -> str:
        """What a step evaluates, in words; see `Runner`."""
        return "slope" if self.probes is None else f"slope and {self.probes.count} {self.probes.kind}"

    @property
    def drift(self) -> Drift:
        """Of the network as it is now."""
        self.refresh()
        assert self._drift is not None
        return self._drift

    def refresh(self) -> None:
        """Make everything anew where the network has changed."""
        if self._drift is not None and not self._drift.stale():
            return
        self.release()
        # What a network is folded to may depend on the number of threads, in its last bits; so it has one.
        if self.device.type == "cpu":
            in_worker(self._make)
        else:
            self._make()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _make(self) -> None:
        low, backend = min(self.start, self.end), self.run_options.backend
        self._drift = Drift(
            self.model, low, self.precision, probability_flow=not self._reverse_sde, device=self.device, backend=backend
        )

    @contextmanager
    def tangents(self) -> Iterator[None]:
        """What `solve` needs around it where there are probes; once, for all CPU workers, as PyTorch has one level."""
        if self.probes is None or self._with_tangents:
            yield
            return
        self._with_tangents = True
        try:
            with forward_ad.dual_level():
                yield
        finally:
            self._with_tangents = False

    def release(self) -> None:
        """Give back what is held on the device."""
        self._drift = None
        self._ready.clear()
        self._graphs.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def size_for(self, batch: int, full: int) -> int:
        """A step that is captured serves smaller batches too; else any size is taken as it is."""
        if not self._graphs.wanted:
            return 0
        return min((size for size in self._ready if batch <= size <= MOST_PADDING * batch), default=full)

    def prepare(self, batch: int) -> None:
        """Nothing: a batch is made ready as it runs."""

    @torch.no_grad()
    def solve(self, states: Tensor, seeds: Sequence[int], on_step: OnStep | None = None) -> Flowed:
        """Of states (B, *state_shape) on the device, whose random numbers are those of the seeds.

        With ``probes`` it must be called inside `tangents`.

        Raises:
            IntegrationError: NaN or infinity, or tolerances that cannot be met; holds what was reached.
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
                raise error.named(seeds) from None
        flat = solution.y.flatten(1)
        return Flowed(flat[:, :size].view(states.shape), solution.evaluations, flat[:, size:])

    def fits(self, batch: int) -> bool:
        """Whether an evaluation of that many samples fits in memory; what was made ready is given back."""
        return fits_in_memory(partial(self._evaluate_once, batch), self.release)

    @torch.no_grad()
    def _evaluate_once(self, batch: int) -> None:
        with self.tangents(), arithmetic(self.precision, self.device, strict=self.run_options.strict):
            states = torch.zeros(batch, *self.model.state_shape, device=self.device, dtype=torch.float64)
            ids = torch.zeros(batch, dtype=torch.int64, device=self.device)
            _ProbedFlow(self, batch, None).evaluate(states, ids)

    def _solver(self, batch: int) -> _ProbedFlow | GottaGoFast:
        """What solves batches of that size; kept where its step is captured, which reads its memory."""
        if batch in self._ready:
            return self._ready[batch]
        capture = self._graphs.step if self._graphs.wanted else None
        solver: _ProbedFlow | GottaGoFast
        if self._reverse_sde:
            sde = self.model.sde
            assert isinstance(sde, ScalarSDE) and isinstance(self.control, Tolerances)
            diffusion = TimeCurves(lambda t: sde.diffusion(t)[None], self.end, self.start, self.device)
            solver = GottaGoFast(
                self.drift, diffusion, self.start, self.end, self.control, run_seed=self.run_options.run_seed,
                noise_backend=self._backends.affine_step, capture=capture,
            )  # fmt: skip
        else:
            solver = _ProbedFlow(self, batch, capture)
        if self._graphs.wanted:
            self._ready[batch] = solver
        return solver


class _ProbedFlow:
    """The flow of batches of one size, and beside it the divergence by the fields of its probes."""

    def __init__(self, runner: FlowRunner, batch: int, capture: Callable[[Attempt], Attempt] | None) -> None:
        self._runner, self._drift, self._model = runner, runner.drift, runner.model
        self._size = math.prod(self._model.state_shape)
        count = runner.probes.count if runner.probes is not None and runner.probes.kind != "exact" else 0
        self._fields = torch.zeros(count, batch, *self._model.image_shape, device=runner.device)
        self._ids = torch.zeros(batch, dtype=torch.int64, device=runner.device)
        self._integrator = Integrator(self._slope, runner.start, runner.end, runner.control, capture=capture)

    def solve(self, states: Tensor, ids: Tensor, on_attempt: OnAttempt | None) -> Solution:
        """Of states (B, *state_shape) float64."""
        return self._integrator.solve(self._begin(states, ids), on_attempt)

    def evaluate(self, states: Tensor, ids: Tensor) -> Tensor:
        """One slope at the start, to see whether it fits in memory."""
        start = torch.full((len(states),), self._runner.start, dtype=torch.float64, device=states.device)
        return self._slope(self._begin(states, ids), start)

    def _begin(self, states: Tensor, ids: Tensor) -> Tensor:
        """(B, N): the states, and zeros for the divergences; draws the fields of the probes."""
        probes, run = self._runner.probes, self._runner.run_options
        begin = states.flatten(1)
        if probes is not None:
            self._ids.copy_(ids)
            draw = rademacher if probes.kind == "rademacher" else normal
            for index, field in enumerate(self._fields):
                field.copy_(draw(ids, run.run_seed, probes.draw + index, self._model.image_shape))
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
