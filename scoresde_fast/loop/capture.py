# SPDX-License-Identifier: Apache-2.0
"""The captured loop: each pattern of a run is one CUDA graph, replayed for each repetition in the program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from scoresde_fast.devices import out_of_memory
from scoresde_fast.loop.capture_safety import require_capturable
from scoresde_fast.loop.evaluator import warn_slower
from scoresde_fast.loop.loop import Loop
from scoresde_fast.loop.program import Pattern, split
from scoresde_fast.loop.run_monitor import OnStep, RunMonitor
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise

Step = Callable[[], None]
Captured = TypeVar("Captured")

WARM_UP = 3
"""Runs of a pattern before its capture, so that Triton compiles, cuDNN tunes and libraries allocate."""
MAX_GRAPHS = 8
"""Maximum number of captured patterns, most frequent first; a solver has two or three."""


class Graphs(Protocol):
    """Records a step and replays it."""

    def warm_up(self, step: Step) -> None:
        """Run a step in the stream that will capture it."""

    def capture(self, step: Step) -> Step:
        """Record a step without running it and return a function that replays it."""


class CudaGraphs:
    """CUDA graphs of one GPU.

    They share a memory pool, because the temporary memory of a graph is never read after its replay.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, step: Step) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            step()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def capture(self, step: Step) -> Step:
        graph = torch.cuda.CUDAGraph()
        causes: list[Exception] = []
        try:
            # The outer stream context restores the caller's stream, which a failed capture does not.
            with (
                torch.cuda.device(self._device),
                torch.cuda.stream(self._stream),
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                try:
                    step()
                except Exception as error:
                    causes.append(error)
                    raise
        except Exception:
            self._end_allocation()
            if causes:  # more informative than the error of the aborted capture
                raise causes[0] from None
            raise
        return graph.replay

    def _end_allocation(self) -> None:
        """Detach the allocator from the pool of a failed capture; torch 2.11 does not, and then frees no memory."""
        with suppress(RuntimeError), torch.cuda.device(self._device):  # in other versions it is already detached
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)


class GraphCapture:
    """Captures the runs of a model's network; at the first failure it warns and stops capturing.

    Args:
        model: the model; the warning names the class of its ``network``.
        device: a GPU, unless ``wanted`` is False.
        wanted: whether to capture.

    Attributes:
        wanted: whether to capture; False after a failure.
    """

    def __init__(self, model: ScoreFunction, device: torch.device, *, wanted: bool) -> None:
        self.wanted = wanted
        self._model, self._device = model, device
        self._graphs: Graphs | None = None

    def release(self) -> None:
        """Free the memory of the graphs; the next capture is checked again."""
        self._graphs = None

    def capture(self, check: Callable[[], None], record: Callable[[Graphs], Captured]) -> Captured | None:
        """Return ``record(graphs)``, or None if capture is not wanted or fails.

        Args:
            check: raises if a capture would fail.  It is called before the first capture, because a failed capture
                leaves the device in a bad state.
            record: captures with the given graphs.

        Raises:
            torch.OutOfMemoryError, MemoryError, RuntimeError: memory is short, see `out_of_memory`.
        """
        if not self.wanted:
            return None
        try:
            if self._graphs is None:
                check()
                self._graphs = CudaGraphs(self._device)
            return record(self._graphs)
        except Exception as error:
            if out_of_memory(error):
                raise
            self.wanted = False
            warn_slower(self._model.network, "captured as a CUDA graph", "capture", error)
            return None

    def step(self, step: Step) -> Step:
        """Return a replay of the step, or the step itself if it is not captured; capture first runs it a few times."""

        def record(graphs: Graphs) -> Step:
            for _ in range(WARM_UP):
                graphs.warm_up(step)
            return graphs.capture(step)

        return self.capture(partial(require_capturable, step, self._device), record) or step


class CapturedLoop:
    """A captured loop for one batch shape; `run` only launches graphs.

    Args:
        loop: the loop to capture.
        shape: (B, C, H, W) of the batches.
        graphs: records the patterns; loops with the same ``graphs`` share memory.

    Raises:
        RuntimeError: a pattern cannot be captured.
    """

    def __init__(self, loop: Loop, shape: tuple[int, ...], graphs: Graphs) -> None:
        self.loop, self.registers = loop, loop.registers(shape)
        self.phases = split(loop.program.kinds)
        frequency: Counter[Pattern] = Counter()
        for phase in self.phases:
            frequency[phase.pattern] += phase.repeats
        steps: dict[Pattern, Step] = {pattern: partial(loop.pattern, pattern, self.registers) for pattern in frequency}
        captured = [pattern for pattern, _ in frequency.most_common(MAX_GRAPHS)]
        for pattern in captured:
            for _ in range(WARM_UP):
                self.registers.counter.zero_()
                graphs.warm_up(steps[pattern])
        self.replays = steps | {pattern: graphs.capture(steps[pattern]) for pattern in captured}

    def run(self, x: Tensor, noise: Noise, on_step: OnStep | None = None) -> Tensor:
        """Run the program like `Loop.run`, but call ``on_step`` after each pattern instead of each of its rows."""
        registers = self.loop.start(self.registers, x, noise)
        monitor = RunMonitor(registers.sums, self.loop.program.table, on_step, self.loop.program.nfe)
        for phase in self.phases:
            replay, rows = self.replays[phase.pattern], len(phase.pattern)
            evaluations = sum(kind.evaluations for kind in phase.pattern)
            for _ in range(phase.repeats):
                replay()
                monitor.queued(rows, evaluations)
        monitor.finish()
        return registers.state.clone()


def require_capturable_loop(loop: Loop, state_shape: tuple[int, ...]) -> None:
    """Raise `CaptureUnsafeError`, which names the operation, if a pattern of the loop cannot be captured."""
    registers = loop.registers((1, *state_shape))
    for pattern in dict.fromkeys(phase.pattern for phase in split(loop.program.kinds)):
        registers.counter.zero_()
        require_capturable(partial(loop.pattern, pattern, registers), registers.state.device)
