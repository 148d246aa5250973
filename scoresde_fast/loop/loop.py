# SPDX-License-Identifier: Apache-2.0
"""The loop that runs a program with a network: for each row at most one network evaluation and one step operation.

A counter on the device holds the row index; the network's tables and the step operations read it there.  No value on
the host depends on the step, so the rows of a pattern can be captured once and replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.loop.condition import NO_CONDITIONS, BoundConditions, Data, Evaluate, evaluate_guided
from scoresde_fast.loop.inputs import NO_INPUTS, NetworkInputs
from scoresde_fast.loop.program import Pattern, Program, RowKind
from scoresde_fast.loop.run_monitor import OnStep, RunMonitor
from scoresde_fast.noise import Noise
from scoresde_fast.ops import affine_step, langevin
from scoresde_fast.solvers.options import Norm

AfterRow = Callable[[int, Tensor, Tensor, Tensor | None], None]


def no_features(batch: int) -> Data:
    """Return the deep features that a loop without reuse keeps."""
    return ()


@dataclass(frozen=True)
class StepBackends:
    """The implementation of each step operation, chosen once for a run."""

    affine_step: Callable[..., Any]
    affine_step_pair: Callable[..., Any]
    langevin: Callable[..., Any]

    @classmethod
    def choose(cls, device: torch.device | str, backend: str | None = None) -> StepBackends:
        """Choose the implementations; ``backend`` and the errors are those of `scoresde_fast.ops.Operation.choose`."""
        return cls(
            affine_step=affine_step.operation.choose(device, backend),
            affine_step_pair=affine_step.pair_operation.choose(device, backend),
            langevin=langevin.operation.choose(device, backend),
        )


@dataclass(frozen=True, eq=False)
class Registers:
    """All tensors that a run of one batch changes, on the device.

    Attributes:
        state: (B, ...) float32.
        saved: like ``state``; None if the program saves no state.
        history: (H, B, ...) float32, ring buffer of derived outputs; None if the program reads no earlier output.
        sample_ids: (B,) int64.
        counter: (1,) int64, index of the next row.
        sums: (1, rows) float32, sum of the state after each row; with guidance (2, rows): ``sums[1]`` holds the sums of
            the gradients.
        data: data of each condition.
        inputs: inputs of the network.
        features: deep features of the last whole evaluation, if others reuse them.
    """

    state: Tensor
    saved: Tensor | None
    history: Tensor | None
    sample_ids: Tensor
    counter: Tensor
    sums: Tensor
    data: tuple[Data, ...]
    inputs: Data
    features: Data


@dataclass(frozen=True, eq=False)
class Loop:
    """A program with the network and the step operations that run it.

    Attributes:
        program: the step table on the device.
        evaluate: the network, see `Evaluate`.
        backends: implementations of the step operations.
        run_seed: seed of the noise, see `Noise`.
        langevin_norm: see `scoresde_fast.ops.langevin.langevin`.
        conditions: conditions on the samples.
        inputs: inputs of the network.
        guided: the network with its guidance, for rows that are guided; None if there are none.
        shallow: the network for rows that reuse deep features; None if there are none.
        empty_features: returns tensors for the deep features of a batch of this size.
    """

    program: Program
    evaluate: Evaluate
    backends: StepBackends
    run_seed: int = 0
    langevin_norm: Norm = "sample"
    conditions: BoundConditions = NO_CONDITIONS
    inputs: NetworkInputs = NO_INPUTS
    guided: Evaluate | None = None
    shallow: Evaluate | None = None
    empty_features: Callable[[int], Data] = no_features

    def registers(self, shape: tuple[int, ...]) -> Registers:
        """Return registers for a batch of ``shape``, to be filled by `start`."""
        program, conditions = self.program, self.conditions
        device = program.labels.device
        state = torch.zeros(shape, dtype=torch.float32, device=device)
        return Registers(
            state=state,
            saved=torch.zeros_like(state) if program.keeps_state else None,
            history=state.new_zeros(program.history, *shape) if program.history else None,
            sample_ids=torch.zeros(shape[0], dtype=torch.int64, device=device),
            counter=torch.zeros(1, dtype=torch.int64, device=device),
            sums=state.new_zeros(2 if conditions.guidance else 1, len(program.kinds)),
            data=tuple(condition.empty_data(shape[0]) for condition in conditions.all),
            inputs=self.inputs.empty_data(shape[0]),
            features=self.empty_features(shape[0]),
        )

    def start(self, registers: Registers, x: Tensor, noise: Noise) -> Registers:
        """Set the registers to the start of a run from ``x``, with the conditions applied to it, and return them."""
        r, ids = registers, noise.sample_ids
        r.state.copy_(x)
        if r.saved is not None:
            r.saved.copy_(x)
        r.sample_ids.copy_(ids)
        for register in (r.history, r.counter, r.sums):
            if register is not None:
                register.zero_()
        for source, tensors in zip((*self.conditions.all, self.inputs), (*r.data, r.inputs), strict=True):
            for tensor, value in zip(tensors, source.data(ids), strict=True):
                tensor.copy_(value)
        for condition, data in zip(self.conditions.on_state, r.data, strict=False):
            condition.start(r.state, data, r.sample_ids, run_seed=self.run_seed)
        return r

    def row(self, kind: RowKind, registers: Registers) -> Tensor | None:
        """Run the row at the counter, advance the counter, and return the network's output, if any."""
        r, table = registers, self.program.device_table
        output, push = self._evaluate(kind, r) if kind.evaluates else (None, None)
        if kind.langevin:
            assert output is not None  # every Langevin row evaluates the network
            multiple = output
            if kind.mixed:
                multiple = torch.addcmul(output, r.state, self.program.langevin_state.index_select(0, r.counter))
            langevin.langevin(
                r.state, multiple, r.sample_ids, table, counter=r.counter, norm=self.langevin_norm,
                run_seed=self.run_seed, implementation=self.backends.langevin,
            )  # fmt: skip
        else:
            pairs = self.program.pairs
            affine_step.affine_step(
                r.state, table, counter=r.counter, saved=r.saved if kind.saves else None, history=r.history,
                network_output=output, sample_ids=r.sample_ids if kind.noise else None, earlier=kind.earlier,
                pairs=pairs, run_seed=self.run_seed,
                implementation=self.backends.affine_step_pair if pairs else self.backends.affine_step,
            )  # fmt: skip
        if push is not None:
            r.state.add_(push)
        for condition, data in zip(self.conditions.on_state, r.data, strict=False):
            condition.after_row(r.state, data, r.sample_ids, r.counter, run_seed=self.run_seed)
        r.sums[0].index_copy_(0, r.counter, r.state.sum().view(1))
        r.counter.add_(1)
        return output

    def _evaluate(self, kind: RowKind, r: Registers) -> tuple[Tensor, Tensor | None]:
        """Return the guided network output and the guidance term to add to the state after the row, or None."""
        network = self.guided if kind.guided and self.guided is not None else self.evaluate
        if kind.shallow:
            assert self.shallow is not None
            network = self.shallow
        if not self.conditions.guidance:
            return network(r.state, r.counter, *r.inputs, *r.features), None
        data = r.data[len(self.conditions.on_state) :]

        def evaluate(x: Tensor, row: Tensor) -> Tensor:
            return network(x, row, *r.inputs)

        output, push, health = evaluate_guided(evaluate, self.conditions, r.state, data, r.counter)
        r.sums[1].index_copy_(0, r.counter, health.view(1))
        return output, push

    def pattern(self, pattern: Pattern, registers: Registers) -> None:
        """Run the rows of ``pattern``, starting at the counter."""
        for kind in pattern:
            self.row(kind, registers)

    def run(self, x: Tensor, noise: Noise, on_step: OnStep | None = None, after_row: AfterRow | None = None) -> Tensor:
        """Run the program row by row, from a prior sample to the data, and return the final state.

        Args:
            x: (B, ...) float32, the state at T; not modified.
            noise: the noise, with the sample ids.
            on_step: called with (evaluations done, total evaluations) after each row.
            after_row: called with the row's index, the states before and after it, and the network's output.

        Raises:
            NonFiniteError: the state became NaN or infinite; the message gives the row and its time.
        """
        registers = self.start(self.registers(tuple(x.shape)), x, noise)
        monitor = RunMonitor(registers.sums, self.program.table, on_step, self.program.nfe)
        before = registers.state.clone() if after_row else x
        for index, kind in enumerate(self.program.kinds):
            output = self.row(kind, registers)
            monitor.queued(1, kind.evaluations)
            if after_row:
                state = registers.state.clone()
                after_row(index, before, state, output)
                before = state
        monitor.finish()
        return registers.state
