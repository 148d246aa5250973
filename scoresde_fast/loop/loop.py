# SPDX-License-Identifier: Apache-2.0
"""The loop: runs any program with any network, one operation a row beside the network's evaluation.

Which row it is stands in a counter on the device, which the network's tables and the step operations read.  No value
on the host depends on the step, so that the rows of a pattern may be captured once and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from scoresde_fast.loop.condition import NO_CONDITIONS, BoundConditions, Data
from scoresde_fast.loop.guidance import Evaluate, evaluate_guided
from scoresde_fast.loop.phases import Pattern, RowKind
from scoresde_fast.loop.program import Program
from scoresde_fast.loop.watch import NonFiniteError, OnStep, Watch
from scoresde_fast.noise import Noise
from scoresde_fast.ops import affine_step, langevin
from scoresde_fast.ops.langevin import LangevinNorm

__all__ = ["Evaluate", "Loop", "NonFiniteError", "Registers", "StepBackends"]


@dataclass(frozen=True)
class StepBackends:
    """The implementation of each step operation, chosen once for a run."""

    affine_step: Callable[..., Any]
    affine_step_pair: Callable[..., Any]
    langevin: Callable[..., Any]

    @classmethod
    def choose(cls, device: torch.device | str, backend: str | None = None) -> StepBackends:
        """``backend`` as in `scoresde_fast.ops.Operation.choose`, with its errors."""
        found = (affine_step.operation, affine_step.pair_operation, langevin.operation)
        return cls(*(operation.choose(device, backend) for operation in found))


class _Contract(TypedDict):
    """What decides the noise of a run, beside the samples' ids."""

    run_seed: int
    precise: bool


@dataclass(frozen=True, eq=False)
class Registers:
    """Everything that a run of one batch changes, on its device.

    Attributes:
        state: (B, ...) float32.
        saved: like ``state``, where the program keeps one.
        history: (H, B, ...) float32, the ring of derived outputs, where the program reads any.
        sample_ids: (B,) int64.
        counter: (1,) int64, the row that comes next.
        sums: (1, rows) float32, the sum of the state after each row, finite where the state is; where something guides
            the samples (2, rows), the second line for its gradients.
        data: what each condition holds of the samples.
    """

    state: Tensor
    saved: Tensor | None
    history: Tensor | None
    sample_ids: Tensor
    counter: Tensor
    sums: Tensor
    data: tuple[Data, ...] = ()

    @classmethod
    def empty(cls, program: Program, shape: tuple[int, ...], conditions: BoundConditions = NO_CONDITIONS) -> Registers:
        """Registers of a program for a batch of ``shape``, to be filled by `load`."""
        device = program.labels.device
        state = torch.zeros(shape, device=device)
        return cls(
            state,
            torch.zeros_like(state) if program.keeps_state else None,
            state.new_zeros(program.history, *shape) if program.history else None,
            torch.zeros(shape[0], dtype=torch.int64, device=device),
            torch.zeros(1, dtype=torch.int64, device=device),
            state.new_zeros(2 if conditions.guiding else 1, len(program.kinds)),
            tuple(condition.empty_data(shape[0]) for condition in conditions.all),
        )

    def load(self, x: Tensor, sample_ids: Tensor, data: Sequence[Data] = ()) -> Registers:
        """The beginning of a run from ``x``; returns itself."""
        self.state.copy_(x)
        if self.saved is not None:
            self.saved.copy_(x)
        self.sample_ids.copy_(sample_ids)
        for register in (self.history, self.counter, self.sums):
            if register is not None:
                register.zero_()
        for kept, given in zip(self.data, data, strict=True):
            for register, tensor in zip(kept, given, strict=True):
                register.copy_(tensor)
        return self


@dataclass(frozen=True, eq=False)
class Loop:
    """A program, what evaluates its network, and what makes its steps.

    Attributes:
        program: the table and its coefficients.
        evaluate: see `Evaluate`.
        backends: what makes the steps.
        run_seed, precise: see `Noise`.
        langevin_norm: see `scoresde_fast.ops.langevin.langevin`.
        conditions: what the samples are held to and guided by.
    """

    program: Program
    evaluate: Evaluate
    backends: StepBackends
    run_seed: int = 0
    precise: bool = False
    langevin_norm: LangevinNorm = "sample"
    conditions: BoundConditions = NO_CONDITIONS

    @property
    def _contract(self) -> _Contract:
        return _Contract(run_seed=self.run_seed, precise=self.precise)

    def registers(self, shape: tuple[int, ...]) -> Registers:
        """Registers for a batch of ``shape``, to be filled by `start`."""
        return Registers.empty(self.program, shape, self.conditions)

    def start(self, registers: Registers, x: Tensor, noise: Noise) -> Registers:
        """The beginning of a run from ``x``, to which the conditions are applied; returns the registers."""
        ids = noise.sample_ids
        r = registers.load(x, ids, [condition.data(ids) for condition in self.conditions.all])
        for condition, data in zip(self.conditions.holding, r.data, strict=False):
            condition.start(r.state, data, r.sample_ids, **self._contract)
        return r

    def row(self, kind: RowKind, registers: Registers) -> None:
        """The row that the counter names; the counter goes on to the next."""
        r, table = registers, self.program.device_table
        contract = self._contract
        output, push = self._evaluate(r) if kind.evaluates else (None, None)
        if kind.langevin:
            assert output is not None  # a Langevin row evaluates the score
            langevin.langevin(
                r.state, output, r.sample_ids, table, counter=r.counter, norm=self.langevin_norm, **contract,
                implementation=self.backends.langevin,
            )  # fmt: skip
        else:
            pairs = self.program.pairs
            step = affine_step.affine_step_pair if pairs else affine_step.affine_step
            step(
                r.state, table, counter=r.counter, saved=r.saved if kind.saves else None, history=r.history,
                network_output=output, sample_ids=r.sample_ids if kind.noise else None, earlier=kind.earlier,
                **contract, implementation=self.backends.affine_step_pair if pairs else self.backends.affine_step,
            )  # fmt: skip
        if push is not None:
            r.state.add_(push)
        for condition, data in zip(self.conditions.holding, r.data, strict=False):
            condition.after_row(r.state, data, r.sample_ids, r.counter, **contract)
        r.sums[0].index_copy_(0, r.counter, r.state.sum().view(1))
        r.counter.add_(1)

    def _evaluate(self, r: Registers) -> tuple[Tensor, Tensor | None]:
        """The network's output at the state, guided; and what is added to the state after the row."""
        if not self.conditions.guiding:
            return self.evaluate(r.state, r.counter), None
        data = r.data[len(self.conditions.holding) :]
        output, push, health = evaluate_guided(self.evaluate, self.conditions, r.state, data, r.counter)
        r.sums[1].index_copy_(0, r.counter, health.view(1))
        return output, push

    def pattern(self, pattern: Pattern, registers: Registers) -> None:
        """The rows of ``pattern``, beginning with the one that the counter names."""
        for kind in pattern:
            self.row(kind, registers)

    def run(self, x: Tensor, noise: Noise, on_step: OnStep | None = None) -> Tensor:
        """Run the program row by row from the prior sample to the data.

        Args:
            x: (B, ...) float32, the state at T; it is left as it is.
            noise: the samples' ids.
            on_step: called with (evaluations done, evaluations in all) after each row.

        Raises:
            NonFiniteError: the state became NaN or infinite; names the row and its time.
        """
        registers = self.start(self.registers(tuple(x.shape)), x, noise)
        watch = Watch(registers.sums, self.program.table, on_step)
        for kind in self.program.kinds:
            self.row(kind, registers)
            watch.after(1, int(kind.evaluates))
        watch.finish()
        return registers.state
