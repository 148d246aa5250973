# SPDX-License-Identifier: Apache-2.0
"""Parallel-in-time sampling (ParaDiGMS, Shih et al. 2023): one image sooner, by evaluating many steps at once.

The states before a window of rows are guessed, and the network is evaluated at all of them in one batch.  With these
outputs the rows of the window are run one after another, which costs no evaluation and gives better guesses.  This is
repeated until the guesses no longer change.  The state before the first row of the window is exact, so each round
finishes at least one row; the window moves on to the first row whose guess still changed.  Noise is known beforehand,
so rows may draw it.  Linear parts of the rows are exact in every round, unlike those of the paper's Picard iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scoresde_fast.loop.condition import NO_CONDITIONS, BoundConditions, Evaluate
from scoresde_fast.loop.evaluator import Evaluator, timed_evaluator
from scoresde_fast.loop.inputs import NO_INPUTS, NetworkInputs
from scoresde_fast.loop.loop import Registers
from scoresde_fast.loop.run_monitor import OnStep, RunMonitor
from scoresde_fast.loop.step import Callback
from scoresde_fast.loop.table_runner import TableRunner
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.run_options import RunOptions
from scoresde_fast.solvers import StepTable

PARALLEL_TOLERANCE = 0.01
"""Default of `Parallel.tolerance`."""


@dataclass(frozen=True)
class Parallel:
    """The ``window`` of rows that are evaluated at once, and the relative ``tolerance`` of a guess.

    A guess has converged if a round changes it by less than ``tolerance`` times its root mean square.
    """

    window: int
    tolerance: float


class ParallelRunner(TableRunner):
    """Runs a step table in parallel over its rows, one sample after another; see `TableRunner` for the arguments.

    Raises:
        ValueError: the run depends on the batch, is guided, or as `TableRunner`.
    """

    def __init__(
        self,
        model: ScoreFunction,
        table: StepTable,
        device: torch.device,
        run: RunOptions,
        parallel: Parallel,
        *,
        conditions: BoundConditions = NO_CONDITIONS,
        inputs: NetworkInputs = NO_INPUTS,
    ) -> None:
        if inputs.guidance is not None or conditions.guidance:
            raise ValueError("parallel sampling evaluates the network alone, without guidance: leave out one of them")
        self._parallel = parallel
        self._done: dict[int, tuple[int, int]] = {}
        self._compiled: set[int] = set()
        self._labels = torch.from_numpy(model.parametrisation.labels(table.times)).to(device, torch.float32)
        super().__init__(model, table, device, run, conditions=conditions, inputs=inputs)
        self.nfe = None
        self._graphs.wanted = False

    def rounds(self, seeds: Sequence[int]) -> list[int]:
        """Return the number of rounds of each seed, which follow one another; raises as `evaluations`."""
        return [self._counts(seed)[0] for seed in seeds]

    def evaluations(self, seeds: Sequence[int]) -> list[int]:
        """Return the number of evaluations of each seed; raises ``ValueError`` for a seed not sampled yet."""
        return [self._counts(seed)[1] for seed in seeds]

    def _counts(self, seed: int) -> tuple[int, int]:
        if seed not in self._done:
            raise ValueError(f"seed {seed} has not been sampled, so its number of evaluations is unknown")
        return self._done[seed]

    def size_for(self, batch: int, full: int) -> int:
        """Return 0: the network is evaluated on windows of one sample, whatever the batch."""
        return 0

    def prepare(self, batch: int) -> None:  # type: ignore[override]
        """Compile the network for a window, if requested."""
        self.refresh()
        threads = torch.get_num_threads()
        if self._compiling and threads not in self._compiled:
            self._compiled.add(threads)
            with self._computing():
                self._compile(self._parallel.window)

    def run(
        self,
        seeds: Sequence[int],
        on_step: OnStep | None = None,
        *,
        normals: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Return the final states (len(seeds), *state_shape); the errors are those of `Loop.run`.

        Raises:
            ValueError: there is a callback; the steps are not made one after another.
        """
        if callback is not None:
            raise ValueError("with parallel there is no callback and no trajectory: leave out one of them")
        self.prepare(len(seeds))
        run, ends = self.run_options, []
        with self._computing():
            for position, seed in enumerate(seeds):
                noise = Noise(run.run_seed, torch.tensor([seed], dtype=torch.int64, device=self.device), run.backend)
                own = noise.normal(0, self.model.state_shape) if normals is None else normals[[position]]
                ends.append(self._sample(seed, self.model.prior(own.to(self.device)), noise))
                if on_step is not None:
                    on_step((position + 1) * self.program.nfe, len(seeds) * self.program.nfe)
        return torch.cat(ends)

    def _sample(self, seed: int, x: Tensor, noise: Noise) -> Tensor:
        """Return the final state (1, ...) from that at T."""
        frozen, kinds = FrozenOutput(), self.program.kinds
        loop = self._make_loop([frozen, frozen, frozen])
        registers = loop.start(loop.registers(tuple(x.shape)), x, noise)
        first, rounds, evaluations = 0, 0, 0
        before, guesses = [Snapshot.of(registers)], registers.state.repeat(self._parallel.window, *[1] * (x.ndim - 1))
        while first < len(kinds):
            rows = range(first, min(first + self._parallel.window, len(kinds)))
            outputs = self._outputs(guesses, rows, registers)
            rounds, evaluations = rounds + 1, evaluations + sum(kinds[row].evaluates for row in rows)
            before[0].restore(registers, first)
            before = []
            for index, row in enumerate(rows):
                before.append(Snapshot.of(registers))
                frozen.output = outputs[[index]]
                loop.row(kinds[row], registers)
            before.append(Snapshot.of(registers))
            states = torch.cat([snapshot.state for snapshot in before])
            final = self._final_rows(states[: len(rows)], guesses[: len(rows)])
            first, before = first + final, before[final:]
            guesses = torch.cat([states[final:], *[states[-1:]] * self._parallel.window])[: self._parallel.window]
        monitor = RunMonitor(registers.sums, self.program.table, None, self.program.nfe)
        monitor.queued(len(kinds), self.program.nfe)
        monitor.finish()
        self._done[seed] = rounds, evaluations
        return registers.state

    def _final_rows(self, states: Tensor, guesses: Tensor) -> int:
        """Return the number of rows with final outputs: those before the first whose state differs from its guess."""
        change, size = ((each.flatten(1).square().mean(1)) for each in (states - guesses, states))
        converged = change <= self._parallel.tolerance**2 * size
        converged[0] = True  # the first state is exact
        return len(converged) if bool(converged.all()) else int(converged.int().argmin())

    def _outputs(self, guesses: Tensor, rows: range, registers: Registers) -> Tensor:
        """Return the outputs (W, ...) of the network at guesses (W, ...) of the states before ``rows``.

        A window that is longer than ``rows`` is filled up, so that the network always gets batches of one size.
        """
        index = torch.arange(rows.start, rows.start + len(guesses), device=self.device).clamp(max=rows.stop - 1)
        inputs = [value.expand(len(guesses), *value.shape[1:]).contiguous() for value in registers.inputs]
        return self._evaluates[0](guesses, self._labels.index_select(0, index), *inputs).contiguous()

    def _make_evaluators(self, network: nn.Module) -> tuple[Evaluator, Evaluator, Evaluator]:
        """Return an evaluator with a time for each state, three times."""
        timed = timed_evaluator(network, self._requested, self._inputs.names)
        return timed, timed, timed

    def _evaluate_zeros(self, evaluates: Sequence[Evaluate], batch: int) -> None:
        """Evaluate the network on a window."""
        x = torch.zeros(batch, *self.model.state_shape, dtype=torch.float32, device=self.device)
        evaluates[0](x, self._labels[:1].expand(batch).contiguous(), *self._inputs.empty_data(batch))


class FrozenOutput:
    """Stands in for the network: returns the output that was computed before."""

    output: Tensor

    def __call__(self, x: Tensor, row: Tensor, *inputs: Tensor) -> Tensor:
        """Return the output (1, ...) whatever the state."""
        return self.output


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The registers before a row, as far as a row changes them."""

    state: Tensor
    saved: Tensor | None
    history: Tensor | None

    @classmethod
    def of(cls, registers: Registers) -> Snapshot:
        """Return copies of the registers."""
        r = registers
        saved, history = (None if each is None else each.clone() for each in (r.saved, r.history))
        return cls(r.state.clone(), saved, history)

    def restore(self, registers: Registers, row: int) -> None:
        """Set the registers to those before a row."""
        registers.counter.fill_(row)
        registers.state.copy_(self.state)
        for register, value in ((registers.saved, self.saved), (registers.history, self.history)):
            if register is not None and value is not None:
                register.copy_(value)
