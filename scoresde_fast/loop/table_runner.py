# SPDX-License-Identifier: Apache-2.0
"""The runner of fixed-step solvers: prepares the network for inference and keeps a loop for each batch size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scoresde_fast.devices import arithmetic, choose_capture, choose_compile, choose_precision, out_of_memory
from scoresde_fast.loop.capture import CapturedLoop, GraphCapture, require_capturable_loop
from scoresde_fast.loop.condition import NO_CONDITIONS, BoundConditions, Data, Evaluate
from scoresde_fast.loop.evaluator import (
    Evaluator,
    evaluators,
    network_form,
    network_precision,
    warn_slower,
    warn_user,
)
from scoresde_fast.loop.feature_cache import (
    NO_CACHING,
    CachingNetwork,
    CachingPlainNetwork,
    FeatureCaching,
    caching_evaluators,
)
from scoresde_fast.loop.inputs import NO_INPUTS, NetworkInputs
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.loop.step import Callback, Step
from scoresde_fast.loop.workers import in_worker
from scoresde_fast.model import ScoreFunction
from scoresde_fast.networks import ScoreNetwork
from scoresde_fast.noise import Noise
from scoresde_fast.run_options import RunOptions
from scoresde_fast.solvers import StepTable
from scoresde_fast.solvers.options import Norm

COMPILE_OPTIONS: dict[str, Any] = {"triton.cudagraphs": False}
"""Options of `torch.compile`; no CUDA graphs, because the loop captures its own."""
STRICT_OPTIONS: dict[str, Any] = {"deterministic": True}
"""Added for ``strict``, so that the compiler chooses nothing by timing."""
SIZE_RATIO = 4
"""Batches are padded to powers of this number, so that few sizes are compiled, but at most by this factor."""
RECOMPILE_LIMIT = 256
"""Maximum number of batch sizes compiled per network class in a process; PyTorch's default is eight."""


class TableRunner:
    """Runs a step table with a model's network, eager, compiled or captured; see `scoresde_fast.loop.batches.Runner`.

    Args:
        model: the model, on its device; its network may change or be replaced between runs.
        table: the rows of the solver.
        device: the model's device.
        run: precision, compilation, capture, strictness, backend and run seed.
        langevin_norm: see `scoresde_fast.ops.langevin.langevin`.
        conditions: conditions on the samples.
        inputs: inputs of the network, and its guidance.
        caching: reuse of the network's deep features.

    Raises:
        ValueError: the device does not support the precision or capture, strict excludes langevin_norm "batch", or the
            features of the network cannot be reused.
        RuntimeError: the backend is not available; the message gives the reason.
    """

    chunk_share = 1
    _evaluators: tuple[Evaluator, Evaluator, Evaluator]  # of the network, the guided one, and for shallow rows
    _evaluates: tuple[Evaluate, ...]  # the same, compiled if requested

    def __init__(
        self,
        model: ScoreFunction,
        table: StepTable,
        device: torch.device,
        run: RunOptions,
        *,
        langevin_norm: Norm = "sample",
        conditions: BoundConditions = NO_CONDITIONS,
        inputs: NetworkInputs = NO_INPUTS,
        caching: FeatureCaching = NO_CACHING,
    ) -> None:
        self.model, self.run_options, self.device, self._inputs = model, run, device, inputs
        self.batch_dependent = langevin_norm == "batch" and any(row.langevin is not None for row in table.rows)
        self.strict = run.strict is True
        if self.strict and self.batch_dependent:
            raise ValueError(
                "strict=True excludes langevin_norm='batch', which makes an image depend on its batch: "
                "choose langevin_norm='sample'"
            )
        caching.require_network(model.network)
        if caching.interval > 1 and (inputs.guidance is not None or conditions.guidance):
            raise ValueError(
                f"cache_interval is {caching.interval}, but guidance needs whole evaluations: leave out one of them"
            )
        self._caching = caching
        self._conditions, self._differentiates = conditions, conditions.through_network
        self.evaluation = ("gradient" if self._differentiates else "output") + inputs.memory
        self.program = Program.of_model(model, table, device, inputs, caching.interval)
        self.nfe: int | None = self.program.nfe
        self._backends, self._langevin_norm = StepBackends.choose(device, run.backend), langevin_norm
        self._requested = self.precision = choose_precision(run.precision, device)
        uncompiled = None
        if self._differentiates:
            uncompiled = "a condition takes the network's gradient, which is not compiled"
        elif caching.interval > 1 and not isinstance(model.network, ScoreNetwork):
            uncompiled = "a network whose deep modules are reused is not compiled"
        self._compiling = choose_compile(run.compile, device) and uncompiled is None
        if run.compile is True and uncompiled is not None:
            warn_user(f"{uncompiled}; compile=False silences this warning")
        self._graphs = GraphCapture(model, device, wanted=choose_capture(run.capture, device))
        # The keys are the batch size and the number of CPU threads: compiled code is specific to both.
        self._loops: dict[tuple[int, int], Loop | CapturedLoop] = {}
        self._network: nn.Module | None = None
        self.refresh()

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that a run evaluates."""
        return self.model.network, *self._inputs.networks

    @property
    def implementation(self) -> str:
        """How the network runs: folded or as written, its precision, and whether it is compiled and captured."""
        parts = [network_form(self.model.network), self.precision]
        parts += ["compiled"] * self._compiling + ["captured"] * self._graphs.wanted
        parts += [f"features reused for {self._caching.interval} evaluations"] * (self._caching.interval > 1)
        return ", ".join(parts)

    def refresh(self) -> None:
        """Rebuild everything that depends on the network if the network has changed."""
        if self.model.network is not self._network or any(each.stale() for each in self._evaluators):
            self._build()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _build(self) -> None:
        network, self._network = self.model.network, None
        self.release()
        # Folding runs in one thread, because the last bits of a folded weight may depend on the number of threads.
        make = partial(self._make_evaluators, network)
        self._evaluators = in_worker(make) if self.device.type == "cpu" else make()
        self._evaluates = self._evaluators
        if self._compiling:
            options = COMPILE_OPTIONS | (STRICT_OPTIONS if self.strict else {})
            self._evaluates = tuple(
                torch.compile(each, fullgraph=True, dynamic=False, options=options) for each in self._evaluators
            )
        self.precision = network_precision(network, self._requested)
        self._network = network  # set last, so that a failed build is repeated

    def _make_evaluators(self, network: nn.Module) -> tuple[Evaluator, Evaluator, Evaluator]:
        """Return the evaluators of the network and of the guided network, and that of shallow rows."""
        plain, guided = evaluators(network, self.program, self._inputs, self._requested)
        if self._caching.interval == 1:
            return plain, guided, plain
        whole, shallow = caching_evaluators(plain, self._caching)
        return whole, whole, shallow

    def release(self) -> None:
        """Free the memory of all loops."""
        self._loops.clear()
        self._graphs.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def size_for(self, batch: int, full: int) -> int:
        """Return the size to which to pad ``batch`` images, given the size of a full batch.

        A loop that is neither compiled nor captured needs no padding: 0.  Otherwise the size is a prepared one of which
        at most three quarters are padding, or else the next power of four, at most ``full``.
        """
        if not (self._compiling or self._graphs.wanted):
            return 0
        if prepared := [size for size, _ in self._loops if batch <= size <= SIZE_RATIO * batch]:
            return min(prepared)
        size = 1
        while size < batch:
            size *= SIZE_RATIO
        return max(batch, min(size, full))

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Set PyTorch's gradient mode and arithmetic flags for a run."""
        # Tensors made in inference mode cannot take part in a gradient.
        guided = bool(self._conditions.guidance)
        with (
            torch.inference_mode(not guided),
            torch.no_grad(),
            arithmetic(self._requested, self.device, strict=self.strict),
        ):
            yield

    def prepare(self, batch: int) -> Loop | CapturedLoop:
        """Return the loop for batches of this size, compiled, warmed up and captured as requested."""
        key = batch, torch.get_num_threads()
        if key not in self._loops:
            self.refresh()
            with self._computing():
                if self._compiling:
                    self._compile(batch)
                loop = self._make_loop(self._evaluates)
                self._loops[key] = self._captured(loop, batch) or loop
        return self._loops[key]

    def run(
        self,
        seeds: Sequence[int],
        on_step: OnStep | None = None,
        *,
        normals: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Return the final states (len(seeds), *state_shape) of one batch; the errors are those of `Loop.run`.

        ``normals`` (len(seeds), *state_shape) replace the standard normal noise of the prior.
        """
        loop, run = self.prepare(len(seeds)), self.run_options
        with self._computing():
            noise = Noise(run.run_seed, torch.tensor(seeds, dtype=torch.int64, device=self.device), run.backend)
            normals = noise.normal(0, self.model.state_shape) if normals is None else normals.to(self.device)
            x = self.model.prior(normals)
            if callback is None:
                return loop.run(x, noise, on_step)
            uncaptured = loop.loop if isinstance(loop, CapturedLoop) else loop
            return uncaptured.run(x, noise, on_step, partial(self._report, callback, seeds))

    def _report(
        self,
        callback: Callback,
        seeds: Sequence[int],
        index: int,
        before: Tensor,
        state: Tensor,
        output: Tensor | None,
    ) -> None:
        """Call ``callback`` after the row ``index``."""
        rows = self.program.table.rows
        t = float(rows[index].t)
        sigma = float(self.model.sde.noise_to_signal(np.array(t)))
        factors = partial(self.model.denoising_factors, np.array(t))
        callback(Step(index + 1, len(rows), t, sigma, seeds, state, before, output, factors))

    def evaluations(self, seeds: Sequence[int]) -> list[int]:
        """Return the network evaluations of each seed's run."""
        return [self.program.nfe] * len(seeds)

    def evaluate_once(self, batch: int) -> None:
        """Evaluate as an uncompiled step of this many images does."""
        self.refresh()
        with self._computing():
            self._evaluate_zeros(self._evaluators, batch)

    def _make_loop(self, evaluates: Sequence[Evaluate]) -> Loop:
        """Return the loop with the network and the guided network."""
        return Loop(
            self.program, evaluates[0], self._backends, self.run_options.run_seed, self._langevin_norm,
            self._conditions, self._inputs, guided=evaluates[1], shallow=evaluates[2],
            empty_features=self._empty_features,
        )  # fmt: skip

    def _empty_features(self, batch: int) -> Data:
        """Return tensors for the deep features of a batch; none if no row reuses them."""
        whole = self._evaluators[0]
        if not isinstance(whole, CachingNetwork | CachingPlainNetwork):
            return ()
        x = torch.zeros(batch, *self.model.state_shape, dtype=torch.float32, device=self.device)
        row = torch.zeros(1, dtype=torch.int64, device=self.device)
        return whole.empty_features(x, row, *self._inputs.empty_data(batch))

    def _evaluate_zeros(self, evaluates: Sequence[Evaluate], batch: int) -> None:
        """Evaluate the networks as the loop does, including their gradients if the loop needs them."""
        used = sorted({2 if kind.shallow else int(kind.guided) for kind in self.program.kinds if kind.evaluates})
        features = self._empty_features(batch)
        with torch.set_grad_enabled(self._differentiates):
            for evaluate in [evaluates[index] for index in used]:
                shape = batch, *self.model.state_shape
                x = torch.zeros(shape, dtype=torch.float32, device=self.device, requires_grad=self._differentiates)
                row = torch.zeros(1, dtype=torch.int64, device=self.device)
                output = evaluate(x, row, *self._inputs.empty_data(batch), *features)
                if self._differentiates:
                    torch.autograd.grad(output.sum(), x)

    def _compile(self, batch: int) -> None:
        """Compile the network for this batch size; if that fails, use the uncompiled evaluator from now on."""
        try:
            with torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT):
                self._evaluate_zeros(self._evaluates, batch)
        except Exception as error:
            if out_of_memory(error):
                raise
            self._compiling, self._evaluates = False, self._evaluators
            warn_slower(self.model.network, "compiled", "compile", error)

    def _captured(self, loop: Loop, batch: int) -> CapturedLoop | None:
        """Return the captured loop; None if capture is not wanted or fails."""
        uncompiled = self._make_loop(self._evaluators)
        return self._graphs.capture(
            partial(require_capturable_loop, uncompiled, self.model.state_shape),
            partial(CapturedLoop, loop, (batch, *self.model.state_shape)),
        )
