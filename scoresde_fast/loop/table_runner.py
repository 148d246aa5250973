# SPDX-License-Identifier: Apache-2.0
"""The runner of a solver that is a table: its network made ready, and a loop for each batch size, made once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from scoresde_fast.devices import choose_capture, choose_compile
from scoresde_fast.loop.capture import CapturedLoop, GraphCapture, require_capturable_loop
from scoresde_fast.loop.condition import NO_CONDITIONS, BoundConditions
from scoresde_fast.loop.evaluate import Evaluator, PlainNetwork, evaluator
from scoresde_fast.loop.fallback import fits_in_memory, out_of_memory, warn_slower, warn_user
from scoresde_fast.loop.guidance import Evaluate
from scoresde_fast.loop.lanes import in_lane
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.loop.runner import prior
from scoresde_fast.loop.watch import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.precision import Precision, arithmetic, choose_precision
from scoresde_fast.run_options import RunOptions
from scoresde_fast.solvers import StepTable
from scoresde_fast.solvers.options import Norm

COMPILE_OPTIONS: dict[str, Any] = {"triton.cudagraphs": False}
"""For the compiler behind `torch.compile`: the graphs are ours."""
STRICT_OPTIONS: dict[str, Any] = {"deterministic": True}
"""The same where bits must repeat: no choice that is made by timing may change them."""
LADDER = 4
"""Batches are padded to powers of this, and to at most this many times their size: each size is compiled once."""
RECOMPILE_LIMIT = 256
"""Batch sizes that are compiled, of all networks of one kind in the process; PyTorch gives up after eight."""


class TableRunner:
    """Runs a table on a model's network, eager, compiled or captured; see `Runner`.

    Args:
        model: on its device, in evaluation mode; its network may be replaced or changed between two runs.
        table: the solver's.
        device: the model's.
        run: precision, compilation, capture, strictness, backend and run seed.
        langevin_norm: see `scoresde_fast.ops.langevin.langevin`.
        conditions: what the samples are held to and guided by; where they guide, gradients are taken inside.

    Raises:
        ValueError: the device lacks the precision, or cannot capture.
        RuntimeError: the backend cannot run here; says why.
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
                "strict=True cannot keep langevin_norm='batch', by which an image depends on its batch: "
                "choose langevin_norm='sample'"
            )
        self.program = program_for(model, table, device)
        self._model, self._run, self._conditions = model, run, conditions
        self._make_loop = partial(
            Loop, self.program, backends=StepBackends.choose(device, run.backend), run_seed=run.run_seed,
            langevin_norm=langevin_norm, conditions=conditions,
        )  # fmt: skip
        self._asked = self.precision = choose_precision(run.precision, device)
        self._compiling = choose_compile(run.compile, device) and not self.through_network
        if run.compile is True and self.through_network:
            warn_user(
                "the network's gradient, which a condition takes, is not compiled; "
                "compile=False says that this is meant"
            )
        self._graphs = GraphCapture(model, device, wanted=choose_capture(run.capture, device))
        self._network: nn.Module | None = None
        self._evaluator: Evaluator | None = None
        self._evaluate: Evaluate | None = None
        # By batch size and CPU threads: what is compiled for one number of threads is not for another.
        self._loops: dict[tuple[int, int], Loop | CapturedLoop] = {}
        self.refresh()

    @property
    def evaluate(self) -> Evaluate:
        """The network as the loop evaluates it, compiled where that was asked for."""
        self.refresh()
        assert self._evaluate is not None
        return self._evaluate

    @torch.inference_mode(False)
    @torch.no_grad()
    def refresh(self) -> Evaluator:
        """The evaluator of the network as it is now; where that has changed, everything is made anew."""
        network = self._model.network
        assert isinstance(network, nn.Module)
        if self._evaluator is None or network is not self._network or self._evaluator.stale():
            self.release()
            self._network = network
            make = partial(evaluator, network, self.program.labels, self._asked)
            # What a network is folded to may depend on the number of threads, in its last bits; so it has one.
            self._evaluator = in_lane(make) if self.device.type == "cpu" else make()
            self._evaluate = self._evaluator
            self.precision = self._precision_of(self._evaluator)
            if self._compiling:
                options = COMPILE_OPTIONS | (STRICT_OPTIONS if self._run.strict else {})
                self._evaluate = torch.compile(self._evaluator, fullgraph=True, dynamic=False, options=options)
        return self._evaluator

    def _precision_of(self, made: Evaluator) -> Precision:
        """What an evaluator computes in: a plain network in float32, by TF32 where that was asked for."""
        if not isinstance(made, PlainNetwork) or self._asked == "tf32":
            return self._asked
        if self._run.precision not in ("auto", "fp32") and self.precision != "fp32":
            warn_user(
                f"{type(self._network).__name__} cannot be folded, and so not run in {self._asked}; it runs in float32"
            )
        return "fp32"

    def release(self) -> None:
        """Give back what the loops hold on the device."""
        self._loops.clear()
        self._graphs.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def size_for(self, batch: int, full: int) -> int:
        """The size to run ``batch`` images at, where batches of ``full`` are usual; the rest is padding.

        A size that is ready, if it wastes at most three quarters; else the next power of four, at most ``full``.  0: a
        loop that is neither compiled nor captured takes any batch as it is.
        """
        if not (self._compiling or self._graphs.wanted):
            return 0
        if ready := [size for size, _ in self._loops if batch <= size <= LADDER * batch]:
            return min(ready)
        size = 1
        while size < batch:
            size *= LADDER
        return max(batch, min(size, full))

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """The state of PyTorch and of the device's arithmetic in which everything is computed."""
        # What is made in inference mode can never have a gradient.
        guided = bool(self._conditions.guiding)
        with (
            torch.inference_mode(not guided),
            torch.no_grad(),
            arithmetic(self._asked, self.device, strict=self._run.strict),
        ):
            yield

    def prepare(self, batch: int) -> Loop | CapturedLoop:
        """The loop for batches of that size, compiled, warmed up and captured as far as asked."""
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
        """States (len(seeds), *state_shape) of the seeds, run as one batch; the errors are those of `Loop.run`."""
        loop = self.prepare(len(seeds))
        with self._computing():
            x, noise = prior(self._model, self._run, seeds, self.device)
            return loop.run(x, noise, on_step)

    def evaluations(self, seeds: Sequence[int]) -> list[int]:
        """Network evaluations of each seed's run."""
        return [self.nfe] * len(seeds)

    def fits(self, batch: int) -> bool:
        """Whether an uncompiled step of that many images fits in memory; what was made ready is given back."""
        evaluator = self.refresh()

        def evaluate() -> None:
            with self._computing():
                self._evaluate_once(evaluator, batch)
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)

        return fits_in_memory(evaluate, self.release)

    def _evaluate_once(self, evaluate: Evaluate, batch: int) -> None:
        """An evaluation as the loop has it, with the gradient where one is taken."""
        through = self.through_network
        with torch.set_grad_enabled(through):
            x = torch.zeros(batch, *self._model.state_shape, device=self.device, requires_grad=through)
            output = evaluate(x, torch.zeros(1, dtype=torch.int64, device=self.device))
            if through:
                torch.autograd.grad(output.sum(), x)

    def _compile(self, evaluator: Evaluator, batch: int) -> None:
        """Compile for that size; an evaluator that cannot be compiled runs as it is from now on."""
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
        """The captured loop; None where it cannot be captured."""
        assert self._evaluator is not None
        uncompiled = self._make_loop(self._evaluator)
        return self._graphs.capture(
            partial(require_capturable_loop, uncompiled, self._model.state_shape),
            partial(CapturedLoop, loop, (batch, *self._model.state_shape)),
        )


def program_for(model: ScoreFunction, table: StepTable, device: torch.device | str) -> Program:
    """The table joined with the model, on its device."""
    parametrisation, times = model.parametrisation, table.times
    labels, output_scale, state_scale = (
        of(times) for of in (parametrisation.labels, parametrisation.output_scale, parametrisation.state_scale)
    )
    return Program.of(table, labels, output_scale, device, state_scale)
