# SPDX-License-Identifier: Apache-2.0
"""The captured loop: each pattern of a run is one CUDA graph, replayed as often as the table says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from scoresde_fast.loop.capture_safety import require_capturable
from scoresde_fast.loop.fallback import out_of_memory, warn_slower
from scoresde_fast.loop.loop import Loop
from scoresde_fast.loop.phases import split
from scoresde_fast.loop.watch import OnStep, Watch
from scoresde_fast.noise import Noise

Step = Callable[[], None]
Captured = TypeVar("Captured")

WARM_UP = 3
"""Times that a pattern runs before it is captured: Triton compiles, cuDNN measures, libraries allocate."""
MOST_GRAPHS = 8
"""Patterns that are captured, those that come most often first; a solver has two or three."""


class Graphs(Protocol):
    """What records a step and plays it again."""

    def warm_up(self, step: Step) -> None:
        """Run a step where it will be captured."""

    def capture(self, step: Step) -> Step:
        """Record a step without running it; the result runs what was recorded."""


class CudaGraphs:
    """CUDA graphs of one device.  All share one memory pool: nothing outlives a replay but what lay outside before.

    Args:
        device: the GPU.
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
            # The outer stream context puts the caller's stream back where a failed capture does not.
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
            if causes:  # what ended the capture says more than that it ended
                raise causes[0] from None
            raise
        return graph.replay

    def _end_allocation(self) -> None:
        """Takes the allocator out of the pool of a failed capture; torch 2.11 leaves it there, and frees no memory."""
        with suppress(RuntimeError), torch.cuda.device(self._device):  # raised where the capture's end has done it
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)


class GraphCapture:
    """Captures what runs a model's network, as long as that works; after the first failure, with one warning, no more.

    Args:
        model: has the network as its attribute ``network``, which the warning names.
        device: a GPU, if anything is to be captured.
        wanted: False captures nothing.

    Attributes:
        wanted: whether anything is still captured.
    """

    def __init__(self, model: nn.Module, device: torch.device, *, wanted: bool) -> None:
        self.wanted = wanted
        self._model, self._device = model, device
        self._graphs: Graphs | None = None

    def release(self) -> None:
        """Give back the memory that graphs share; the next capture is checked anew."""
        self._graphs = None

    def capture(self, check: Callable[[], None], record: Callable[[Graphs], Captured]) -> Captured | None:
        """What ``record`` captures; None where that is not wanted or fails.

        Args:
            check: raises if this cannot be captured; called before the first capture, because one that fails half-way
                leaves a device in a state that a check does not.
            record: captures with the graphs that it is given.

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
            assert isinstance(self._model.network, nn.Module)
            warn_slower(self._model.network, "captured as a CUDA graph", "capture", error)
            return None

    def step(self, step: Step) -> Step:
        """The step as a graph, or itself where it is not captured; it runs several times before, in any case."""

        def record(graphs: Graphs) -> Step:
            for _ in range(WARM_UP):
                graphs.warm_up(step)
            return graphs.capture(step)

        return self.capture(partial(require_capturable, step, self._device), record) or step


class CapturedPattern(NamedTuple):
    """Rows of a run that come one after the other, captured.

    Attributes:
        replay: runs them, from the first row of the table on.
        evaluations: of the network in them.
        repeats: how often they come in a row.
    """

    replay: Step
    evaluations: int
    repeats: int


class CapturedLoop:
    """A loop for one shape of batch, captured: `run` hands over one graph a pattern, and nothing else.

    Args:
        loop: what is captured.
        shape: (B, C, H, W) of every batch.
        graphs: where to; several loops may share them, and with them their memory.

    Raises:
        RuntimeError: a pattern cannot be captured.
    """

    def __init__(self, loop: Loop, shape: tuple[int, ...], graphs: Graphs) -> None:
        self._loop = loop
        self._phases = split(loop.program.kinds)
        self._registers = loop.registers(shape)
        often: Counter = Counter()
        for phase in self._phases:
            often[phase.pattern] += phase.repeats
        self._steps = {pattern: partial(loop.pattern, pattern, self._registers) for pattern in often}
        captured = {pattern: self._steps[pattern] for pattern, _ in often.most_common(MOST_GRAPHS)}
        for step in captured.values():
            for _ in range(WARM_UP):
                self._registers.counter.zero_()
                graphs.warm_up(step)
        self._replays: dict[object, Step] = {**self._steps}
        for pattern, step in captured.items():
            self._replays[pattern] = graphs.capture(step)

    def patterns(self) -> Iterator[CapturedPattern]:
        """The patterns of a run in their order, to be measured."""

        def replay(step: Step) -> None:
            self._registers.counter.zero_()  # each replay counts on, and the table has an end
            step()

        for phase in self._phases:
            evaluations = sum(kind.evaluates for kind in phase.pattern)
            yield CapturedPattern(partial(replay, self._replays[phase.pattern]), evaluations, phase.repeats)

    def run(self, x: Tensor, noise: Noise, on_step: OnStep | None = None) -> Tensor:
        """As `Loop.run`, but ``on_step`` is called after each pattern rather than each row."""
        registers = self._loop.start(self._registers, x, noise)
        watch = Watch(registers.sums, self._loop.program.table, on_step)
        for phase in self._phases:
            replay, rows = self._replays[phase.pattern], len(phase.pattern)
            evaluations = sum(kind.evaluates for kind in phase.pattern)
            for _ in range(phase.repeats):
                replay()
                watch.after(rows, evaluations)
        watch.finish()
        return registers.state.clone()


def require_capturable_loop(loop: Loop, state_shape: tuple[int, ...]) -> None:
    """Raises `CaptureUnsafeError`, which names the operation, unless every pattern of the loop can be captured."""
    registers = loop.registers((1, *state_shape))
    for pattern in dict.fromkeys(phase.pattern for phase in split(loop.program.kinds)):
        registers.counter.zero_()
        require_capturable(partial(loop.pattern, pattern, registers), registers.state.device)
