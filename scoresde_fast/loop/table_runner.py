# SPDX-License-Identifier: Apache-2.0
"""The runner of fixed-step solvers: prepares the network for inference and keeps a loop for each batch size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from scoresde_fast.devices import Precision, arithmetic, choose_capture, choose_compile, choose_precision
from scoresde_fast.loop.capture import CapturedLoop, GraphCapture, require_capturable_loop
from scoresde_fast.loop.condition import NO_CONDITIONS, BoundConditions, Evaluate
from scoresde_fast.loop.evaluator import Evaluator, PlainNetwork, evaluator
from scoresde_fast.loop.fallback import fits_in_memory, out_of_memory, warn_slower, warn_user
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.loop.runner import prior
from scoresde_fast.loop.workers import in_worker
from scoresde_fast.model import ScoreFunction
from scoresde_fast.run_options import RunOptions
from scoresde_fast.solvers import StepTable
from scoresde_fast.solvers.options import Norm

COMPILE_OPTIONS: dict[str, Any] = {"triton.cudagraphs": False}
"""Options of `torch.compile`; no CUDA graphs, because the loop captures its own."""
STRICT_OPTIONS: dict[str, Any] = {"deterministic": True}
"""Added for ``strict``, so that the compiler chooses nothing by timing."""
SIZE_RATIO = 4
"""Batches are padded to powers of this number, so that few sizes are compiled, and by at most this factor."""
RECOMPILE_LIMIT = 256
"""Maximum number of batch sizes compiled per network class in a process; PyTorch's default is eight."""


class TableRunner:
    """Runs a step table with a model's network, eager, compiled or captured; see `SampleRunner`.

    Args:
        model: the model, on its device and in evaluation mode; its network may change or be replaced between runs.
        table: the rows of the solver.
        device: the model's device.
        run: precision, compilation, capture, strictness, backend and run seed.
        langevin_norm: see `scoresde_fast.ops.langevin.langevin`.
        conditions: conditions on the samples.

    Raises:
        ValueError: the device does not support the precision or capture, or strict excludes langevin_norm "batch".
        RuntimeError: the backend is not available; the message gives the reason.
    """

    def __init__(
        self,
        model: ScoreFunction,
        table: StepTable,
        device: torch.device,
        run: RunOptions,
        *,
        langevin_norm: Norm = "sample",
        conditions: BoundConditions = NO_CONDITIONS,
    ) -> None:
        self.device, self.nfe, self.through_network = device, table.nfe, conditions.through_network
        self.evaluation = "gradient" if self.through_network else "output"
        self.batch_dependent = langevin_norm == "batch" and any(row.langevin is not None for row in table.rows)
        if run.strict and self.batch_dependent:
            raise ValueError(
                "strict=True excludes langevin_norm='batch', which makes an image depend on its batch: "
                "choose langevin_norm='sample'"
            )
        self.program = Program.of_model(model, table, device)
        self._model, self._run, self._conditions = model, run, conditions
        self._make_loop = partial(
            Loop, self.program, backends=StepBackends.choose(device, run.backend), run_seed=run.run_seed,
            langevin_norm=langevin_norm, conditions=conditions,
        )  # fmt: skip
        self._requested = self.precision = choose_precision(run.precision, device)
        self._compiling = choose_compile(run.compile, device) and not self.through_network
        if run.compile is True and self.through_network:
            warn_user(
                "a condition takes the network's gradient, which is not compiled; compile=False silences this warning"
            )
        self._graphs = GraphCapture(model, device, wanted=choose_capture(run.capture, device))
        self._network: nn.Module | None = None
        self._evaluator: Evaluator | None = None
        self._evaluate: Evaluate | None = None
        # By batch size and number of CPU threads, because compiled code is specific to the number of threads.
        self._loops: dict[tuple[int, int], Loop | CapturedLoop] = {}
        self.refresh()

    @property
    def evaluate(self) -> Evaluate:
        """The network as evaluated by the loop, compiled if requested."""
        self.refresh()
        assert self._evaluate is not None
        return self._evaluate

    @torch.inference_mode(False)
    @torch.no_grad()
    def refresh(self) -> Evaluator:
        """Return the evaluator of the current network; rebuild everything if the network has changed."""
        network = self._model.network
        assert isinstance(network, nn.Module)
        if self._evaluator is None or network is not self._network or self._evaluator.stale():
            self.release()
            self._network = network
            make = partial(evaluator, network, self.program.labels, self._requested)
            # Folding runs in one thread, because the last bits of a folded weight may depend on the number of threads.
            self._evaluator = in_worker(make) if self.device.type == "cpu" else make()
            self._evaluate = self._evaluator
            self.precision = self._precision_of(self._evaluator)
            if self._compiling:
                options = COMPILE_OPTIONS | (STRICT_OPTIONS if self._run.strict else {})
                self._evaluate = torch.compile(self._evaluator, fullgraph=True, dynamic=False, options=options)
        return self._evaluator

    def _precision_of(self, evaluator: Evaluator) -> Precision:
        """Return the precision of an evaluator: a plain network computes in float32, or in TF32 if requested."""
        if not isinstance(evaluator, PlainNetwork) or self._requested == "tf32":
            return self._requested
        if self._run.precision not in ("auto", "fp32") and self.precision != "fp32":
            warn_user(
                f"{type(self._network).__name__} cannot be folded, which {self._requested} needs; it runs in float32"
            )
        return "fp32"

    def release(self) -> None:
        """Free the memory of all loops."""
        self._loops.clear()
        self._graphs.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def size_for(self, batch: int, full: int) -> int:
        """Return the size to which to pad ``batch`` images, given the size of a full batch.

        This is a prepared size if at most three quarters of it are padding, else the next power of four up to ``full``.
        It is 0 (no padding) for a loop that is neither compiled nor captured.
        """
        if not (self._compiling or self._graphs.wanted):
            return 0
        if ready := [size for size, _ in self._loops if batch <= size <= SIZE_RATIO * batch]:
            return min(ready)
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
            arithmetic(self._requested, self.device, strict=self._run.strict),
        ):
            yield

    def prepare(self, batch: int) -> Loop | CapturedLoop:
        """Return the loop for batches of this size, compiled, warmed up and captured as requested."""
        key = batch, torch.get_num_threads()
        if key not in self._loops:
            evaluator = self.refresh()
            with self._computing():
                if self._compiling:
                    self._compile(evaluator, batch)
                assert self._evaluate is not None
                loop = self._make_loop(self._evaluate)
                self._loops[key] = self._captured(loop, batch) or loop
        return self._loops[key]

    def run(self, seeds: Sequence[int], on_step: OnStep | None = None) -> Tensor:
        """Return the final states (len(seeds), *state_shape) of one batch; the errors are those of `Loop.run`."""
        loop = self.prepare(len(seeds))
        with self._computing():
            x, noise = prior(self._model, self._run, seeds, self.device)
            return loop.run(x, noise, on_step)

    def evaluations(self, seeds: Sequence[int]) -> list[int]:
        """Return the network evaluations of each seed's run."""
        return [self.nfe] * len(seeds)

    def fits(self, batch: int) -> bool:
        """Return whether an uncompiled step of this many images fits in memory; frees the prepared loops."""
        evaluator = self.refresh()

        def evaluate() -> None:
            with self._computing():
                self._evaluate_once(evaluator, batch)
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)

        return fits_in_memory(evaluate, self.release)

    def _evaluate_once(self, evaluate: Evaluate, batch: int) -> None:
        """Evaluate the network as the loop does, including its gradient if the loop needs it."""
        through = self.through_network
        with torch.set_grad_enabled(through):
            x = torch.zeros(batch, *self._model.state_shape, device=self.device, requires_grad=through)
            output = evaluate(x, torch.zeros(1, dtype=torch.int64, device=self.device))
            if through:
                torch.autograd.grad(output.sum(), x)

    def _compile(self, evaluator: Evaluator, batch: int) -> None:
        """Compile the network for this batch size; if that fails, use the uncompiled evaluator from now on."""
        assert self._evaluate is not None
        try:
            with torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT):
                self._evaluate_once(self._evaluate, batch)
        except Exception as error:
            if out_of_memory(error):
                raise
            self._compiling, self._evaluate = False, evaluator
            assert self._network is not None
            warn_slower(self._network, "compiled", "compile", error)

    def _captured(self, loop: Loop, batch: int) -> CapturedLoop | None:
        """Return the captured loop; None if capture is not wanted or fails."""
        assert self._evaluator is not None
        uncompiled = self._make_loop(self._evaluator)
        return self._graphs.capture(
            partial(require_capturable_loop, uncompiled, self._model.state_shape),
            partial(CapturedLoop, loop, (batch, *self._model.state_shape)),
        )
