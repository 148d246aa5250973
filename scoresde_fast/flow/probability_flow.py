# SPDX-License-Identifier: Apache-2.0
"""Integration of a model's probability flow between data and prior, in batches on a device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from scoresde_fast.devices import arithmetic, choose_capture, choose_precision, usable_device
from scoresde_fast.flow.drift import Drift
from scoresde_fast.flow.integrate import RK45, Capture, IntegrationError, OnAttempt, Solution, Tolerances
from scoresde_fast.flow.options import FlowOptions, Probes
from scoresde_fast.loop.batches import Batches, fitting_batch
from scoresde_fast.loop.capture import GraphCapture
from scoresde_fast.loop.evaluator import network_form, network_precision, warn_user
from scoresde_fast.loop.inputs import NO_INPUTS, InputValues, NetworkInputs
from scoresde_fast.loop.loop import StepBackends
from scoresde_fast.loop.network_guidance import NetworkGuidance
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.loop.workers import in_worker
from scoresde_fast.model import ScoreFunction, describe_model
from scoresde_fast.ops.normal import normal, rademacher
from scoresde_fast.run_options import RunOptions, names, split_options
from scoresde_fast.sdes import Array
from scoresde_fast.solvers import make_grid

Solve = Callable[[Tensor, Tensor, Tensor, OnAttempt | None], Solution]
"""``solve(states, sample_ids, padding, on_attempt)`` integrates (B, *state_shape) float64, except the padding."""

CHUNK_SHARE = 4
"""Strict chunks of adaptive solvers are smaller than others: a chunk takes as long as its slowest sample, so smaller
chunks cost little, and batches of few samples need less padding."""
FEWEST_STEPS = 5
"""Number of fixed steps below which their estimated error is not trusted: it was up to fifty times too small."""
MAX_PADDING = 4
"""Largest ratio of a captured batch size to the number of samples for which it is used."""
PROGRESS = 1000
"""Progress units of a complete run, as its number of evaluations is not known in advance."""


class FlowResult(NamedTuple):
    """The result of integrating the flow.

    Attributes:
        states: (B, *state_shape) float64, the final states.
        evaluations: (B,) int64, the number of network evaluations of each sample.
        divergence: (B, P) float64, each probe's estimate of the divergence's integral.
        state_error, divergence_error: as ``states`` and ``divergence``, for fixed steps their estimated errors, else 0.
    """

    states: Tensor
    evaluations: Tensor
    divergence: Tensor
    state_error: Tensor
    divergence_error: Tensor


class FlowRunner:
    """Integrates batches of a model's reverse process on a device, with separate steps for each sample.

    Args:
        model: a model on its device; its network may be replaced or changed between runs.
        device: the device of the model.
        run: precision ("auto" is fp32), capture of a step, strictness, backend and run seed.
        control: tolerances, or the times of fixed steps from ``start`` to ``end``.
        start, end: T and the time of the data, in either order.
        probes: the method of computing the divergence; None omits it.
        probability_flow: use the drift of the probability flow rather than of the reverse SDE.
        inputs: inputs of the network, and its guidance.

    Raises:
        ValueError: the device does not support the precision or capture, ``compile`` is True, the model was trained at
            discrete times only, or ``strict`` is combined with error_norm="batch".
        RuntimeError: the backend cannot run here; the message says why.
    """

    chunk_share = CHUNK_SHARE

    def __init__(
        self,
        model: ScoreFunction,
        device: torch.device,
        run: RunOptions,
        control: Tolerances | Array,
        start: float,
        end: float,
        *,
        probes: Probes | None = None,
        probability_flow: bool = True,
        inputs: NetworkInputs = NO_INPUTS,
    ) -> None:
        self.inputs = inputs
        self.batch_dependent = isinstance(control, Tolerances) and control.norm == "batch"
        if run.compile is True:
            raise ValueError("compile=True is not supported by solvers that choose each sample's steps; leave it out")
        self.strict = not self.batch_dependent if run.strict == "auto" else run.strict
        if self.strict and self.batch_dependent:
            raise ValueError(
                "strict=True excludes error_norm='batch', which makes a sample depend on its batch: choose "
                "error_norm='sample'"
            )
        self.model, self.device, self.run_options, self.probes = model, device, run, probes
        self.evaluation = ("slope" if probes is None else f"slope and {probes.count} {probes.kind}") + inputs.memory
        precision = choose_precision("fp32" if run.precision == "auto" else run.precision, device)
        self.precision = network_precision(model.network, precision)
        self.control, self.start, self.end, self.probability_flow = control, start, end, probability_flow
        self.backends = StepBackends.choose(device, run.backend)
        self._graphs = GraphCapture(model, device, wanted=choose_capture(run.capture, device))
        self._drift: Drift | None = None
        self._captured: dict[int, Solve] = {}
        self._in_dual_level = False
        self.refresh()

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that a run evaluates."""
        return self.model.network, *self.inputs.networks

    @property
    def implementation(self) -> str:
        """How the network runs: folded or as written, its precision, and whether a step is captured."""
        parts = [network_form(self.model.network), self.precision, *["captured"] * self._graphs.wanted]
        return ", ".join(parts)

    @property
    def drift(self) -> Drift:
        """The drift of the current network."""
        self.refresh()
        assert self._drift is not None
        return self._drift

    def refresh(self) -> None:
        """Rebuild everything that depends on the network if the network has changed."""
        if self._drift is not None and not self._drift.stale():
            return
        self.release()
        # Folding uses one CPU thread, because the last bits of a folded weight may depend on the number of threads.
        if self.device.type == "cpu":
            in_worker(self._build)
        else:
            self._build()

    def release(self) -> None:
        """Free the memory allocated on the device."""
        self._drift = None
        self._captured.clear()
        self._graphs.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def tangents(self) -> Iterator[None]:
        """Enter the dual level that `solve` needs with probes; CPU workers share one, because they cannot be nested."""
        if self.probes is None or self._in_dual_level:
            yield
            return
        self._in_dual_level = True
        try:
            with forward_ad.dual_level():
                yield
        finally:
            self._in_dual_level = False

    def size_for(self, batch: int, full: int) -> int:
        """Return the size to pad ``batch`` samples to: a captured size or ``full``; without capture 0 (no padding)."""
        if not self._graphs.wanted:
            return 0
        return min((size for size in self._captured if batch <= size <= MAX_PADDING * batch), default=full)

    def prepare(self, batch: int) -> None:
        """Do nothing: `solve` prepares its batch."""

    @torch.no_grad()
    def solve(self, states: Tensor, seeds: Sequence[int], on_step: OnStep | None = None) -> FlowResult:
        """Integrate states (B, *state_shape) on the device, with the noise of the seeds.

        With ``probes`` it must be called inside `tangents`.

        Raises:
            IntegrationError: the slope is NaN or infinite, or the tolerances cannot be met; contains the last states.
        """
        on_attempt = None if on_step is None else lambda fraction: on_step(int(PROGRESS * fraction), PROGRESS)
        size = math.prod(self.model.state_shape)
        ids = torch.tensor(seeds, dtype=torch.int64, device=self.device)
        # With `strict` a seed in another than its fixed slot only fills a gap.
        slots = torch.arange(len(seeds), device=self.device)
        padding = ids % len(seeds) != slots if self.strict else torch.zeros_like(ids, dtype=torch.bool)
        with arithmetic(self.precision, self.device, strict=self.strict):
            try:
                solution = self._solver(len(states))(states.double(), ids, padding, on_attempt)
            except IntegrationError as error:
                raise error.with_seeds(seeds) from None
        flat, errors = solution.y.flatten(1), solution.error.flatten(1)
        evaluations = solution.evaluations * (1 if self.inputs.guidance is None else 2)
        return FlowResult(
            flat[:, :size].view(states.shape),
            evaluations,
            flat[:, size:],
            errors[:, :size].view(states.shape),
            errors[:, size:],
        )

    @torch.no_grad()
    def evaluate_once(self, batch: int) -> None:
        """Evaluate the slope of this many samples once."""
        with self.tangents(), arithmetic(self.precision, self.device, strict=self.strict):
            states = torch.zeros(batch, *self.model.state_shape, device=self.device, dtype=torch.float64)
            slope, times = _ProbedSlope(self, batch), states.new_full((batch,), self.start)
            slope(slope.initial(states, torch.zeros(batch, dtype=torch.int64, device=self.device)), times)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _build(self) -> None:
        low, backend = min(self.start, self.end), self.run_options.backend
        self._drift = Drift(
            self.model, low, self.precision, probability_flow=self.probability_flow, device=self.device,
            inputs=self.inputs, backend=backend,
        )  # fmt: skip

    def _solver(self, batch: int) -> Solve:
        """Return the solver for batches of size ``batch``; a solver with capture is cached, with its memory."""
        if not self._graphs.wanted:
            return self._make_solver(batch, None)
        if batch not in self._captured:
            self._captured[batch] = self._make_solver(batch, self._graphs.step)
        return self._captured[batch]

    def _make_solver(self, batch: int, capture: Capture | None) -> Solve:
        slope = _ProbedSlope(self, batch)
        like = torch.empty(batch, slope.variables, dtype=torch.float64, device=self.device)
        rk45 = RK45(slope, like, self.start, self.end, self.control, capture)
        return lambda states, ids, padding, on_attempt: rk45.solve(slope.initial(states, ids), on_attempt, padding)


class ProbabilityFlow(FlowRunner):
    """Integrates any number of samples between data and prior, for encoding, decoding and likelihoods.

    Args:
        model: any `ScoreFunction` of continuous time; it is moved to the device.
        to_data: integrate from the prior to the data, rather than from the data to the prior.
        probes: the method of computing the divergence; None omits it.
        defaults: values of options that the user omits.
        inputs, guidance: as in `scoresde_fast.Sampler`.
        options: the fields of `FlowOptions` and `RunOptions`.

    Raises:
        TypeError: an option is unknown.
        ValueError: an option is out of range, the inputs do not fit the network, or the model was trained at discrete
            times only.
    """

    def __init__(
        self,
        model: ScoreFunction,
        *,
        to_data: bool,
        probes: Probes | None = None,
        defaults: Mapping[str, Any] | None = None,
        inputs: InputValues = None,
        guidance: NetworkGuidance | None = None,
        **options: Any,
    ) -> None:
        flow_options, run = split_options(options, names(FlowOptions))
        self.options = FlowOptions(**{**(defaults or {}), **flow_options})
        device = usable_device(model.own_device if run.device is None else run.device)
        if self.options.eps is None:
            self.options = replace(self.options, eps=model.sde.flow_eps)
        assert self.options.eps is not None
        low, high = self.options.eps, model.sde.T
        if not 0 < low < high:
            raise ValueError(f"eps is {low!r}; it must be greater than 0 and smaller than {high:g}")
        start, end = (high, low) if to_data else (low, high)
        control: Tolerances | Array = Tolerances(self.options.rtol, self.options.atol, self.options.error_norm)
        if self.options.steps is not None:
            grid = make_grid(self.options.grid, model.sde, self.options.steps, low)
            descending = np.append(grid.times, low)
            control = descending if to_data else descending[::-1].copy()
        model = model.to(device)
        network_inputs = NetworkInputs.bind(inputs, guidance, model, device)
        super().__init__(model, device, run, control, start, end, probes=probes, inputs=network_inputs)
        self._warned = False
        self.batch_size = run.batch_size if run.batch_size != "auto" else fitting_batch(self)

    def run(self, states: Tensor, seeds: Sequence[int], on_step: OnStep | None = None) -> FlowResult:
        """Integrate states (N, *state_shape) with the noise of their seeds; the result is on the CPU.

        Raises:
            ValueError: a seed has no row of the inputs.
            IntegrationError: as in `solve`; contains the last states of one batch.
        """
        self.inputs.require_seeds(seeds)

        def work(indices: Sequence[int], on_step: OnStep | None) -> Tensor:
            batch = states[list(indices)].to(self.device, torch.float64)
            result = self.solve(batch, [seeds[index] for index in indices], on_step)
            return torch.cat([each.reshape(len(batch), -1) for each in result], dim=1).cpu()

        batches = Batches(self, work)
        full = len(states) if self.strict else min(self.batch_size, len(states))
        size, probes = math.prod(self.model.state_shape), self.probes.count if self.probes else 0
        widths = [size, 1, probes, size, probes]
        results = [torch.zeros(0, sum(widths), dtype=torch.float64, device="cpu")]
        with self.tangents():
            for start in range(0, len(states), max(1, full)):
                indices = range(start, min(start + full, len(states)))
                results.append(batches.run(indices, [seeds[index] for index in indices], full, on_step))
        final, evaluations, divergence, error, divergence_error = torch.cat(results).split(widths, dim=1)
        shape = len(states), *self.model.state_shape
        return FlowResult(
            final.reshape(shape), evaluations[:, 0].long(), divergence, error.reshape(shape), divergence_error
        )

    def warn_of_error(self, error: Tensor, negligible: float, results: str, unit: str) -> None:
        """Warn once if an estimated error of fixed steps exceeds ``negligible``, or if they are below `FEWEST_STEPS`.

        The estimate is the difference between the results of orders 5 and 4 of each step, summed over the steps.
        """
        steps = self.options.steps
        largest = float(error.abs().nan_to_num(math.inf).max()) if error.numel() else 0.0
        if steps is None or self._warned or (steps >= FEWEST_STEPS and largest <= negligible):
            return
        self._warned = True
        warn_user(
            f"{steps} fixed steps are too few: the estimated error of the {results} is {largest:.2g} {unit}, and the "
            "true one may be ten times as large; take more steps, or none, so that rtol and atol choose them"
        )

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""
        run = self.run_options
        return {
            "model": describe_model(self.model),
            **asdict(self.options),
            **self.inputs.describe(),
            "strict": self.strict,
            "run_seed": run.run_seed,
            "precision": self.precision,
            **({"batch_size": self.batch_size} if self.batch_dependent else {}),
        }


class _ProbedSlope:
    """The slope of a runner's flow for batches of one size, with each probe's divergence as an additional variable.

    Attributes:
        variables: the number of variables per sample.
    """

    def __init__(self, runner: FlowRunner, batch: int) -> None:
        self._drift, self._probes, self._run_seed = runner.drift, runner.probes, runner.run_options.run_seed
        self._state_shape, self._image_shape = runner.model.state_shape, runner.model.image_shape
        self._size, count = math.prod(self._state_shape), 0 if runner.probes is None else runner.probes.count
        self.variables = self._size + count
        fields = 0 if runner.probes is None or runner.probes.kind == "exact" else count
        self._fields = torch.zeros(fields, batch, *self._image_shape, dtype=torch.float32, device=runner.device)
        self._ids = torch.zeros(batch, dtype=torch.int64, device=runner.device)
        self._inputs = runner.inputs
        self._data = runner.inputs.empty_data(batch)

    def initial(self, states: Tensor, sample_ids: Tensor) -> Tensor:
        """Sample the probes; return the states, with a zero for each divergence, as (B, variables)."""
        initial, probes = states.flatten(1), self._probes
        for tensor, value in zip(self._data, self._inputs.data(sample_ids), strict=True):
            tensor.copy_(value)
        if probes is None:
            return initial
        self._ids.copy_(sample_ids)
        draw = rademacher if probes.kind == "rademacher" else normal
        for index, field in enumerate(self._fields):
            field.copy_(draw(sample_ids, self._run_seed, probes.draw + index, self._image_shape))
        return torch.cat([initial, initial.new_zeros(len(initial), probes.count)], dim=1)

    def __call__(self, y: Tensor, t: Tensor) -> Tensor:
        """Return the slope at variables ``y`` (B, variables) and times ``t`` (B,), all float64."""
        u = y[:, : self._size].view(-1, *self._state_shape)
        if self._probes is None:
            return self._drift.slope(u, t, self._data).flatten(1)
        if self._probes.kind == "exact":
            slope, trace = self._drift.slope_and_exact_trace(u, t, self._data)
        else:
            slope, trace = self._drift.slope_and_trace(
                u, t, self._fields, self._ids, self._probes, self._run_seed, self._data
            )
        return torch.cat([slope.flatten(1), trace], dim=1)
