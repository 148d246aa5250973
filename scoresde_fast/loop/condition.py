# SPDX-License-Identifier: Apache-2.0
"""Conditions inside the loop: changes of the state after each row, and guidance by gradients of log-likelihoods.

A user makes a `Condition` for any model; `Condition.bind` turns it into what the loop of one sampler calls.  A
`StateCondition` changes the state after every update, as `scoresde_fast.Projection` does.  A `GuidanceCondition` is a
log-likelihood whose gradient guides the samples (Song et al. 2021, appendix I):

    grad log p_t(x | y) = grad log p_t(x) + grad log p_t(y | x)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.model import ScoreFunction
from scoresde_fast.sdes import Array
from scoresde_fast.solvers import SolverOptions, StepTable

FIRST_DRAW = 2**31
"""The first draw of conditions: far above a solver's draws, which therefore do not depend on conditions."""
DRAWS = 2**24
"""Draws reserved for each condition of a run."""
MAX_CONDITIONS = 2**31 // DRAWS
"""Conditions of a run."""

Evaluate = Callable[[Tensor, Tensor], Tensor]
"""``evaluate(x, row)``: (B, ...) float32 and (1,) int64 -> the network's output at that row's time, contiguous.

For a pair (B, 2C, ...) the output is that of the velocity, (B, C, ...)."""
Data = tuple[Tensor, ...]
"""The data of a condition for each sample of a batch; every tensor is (B, ...)."""


@dataclass(frozen=True)
class RunContext:
    """The run that a condition is bound to.

    Attributes:
        model: on its device.
        table, options: the rows of the run, and the options that they were made from.
        device: where the states are.
        backend: as in `scoresde_fast.ops.Operation.choose`.
        place: the index of the condition among those of the run.
    """

    model: ScoreFunction
    table: StepTable
    options: SolverOptions
    device: torch.device
    backend: str | None = None
    place: int = 0

    @property
    def first_draw(self) -> int:
        """The first of the condition's `DRAWS` draws."""
        return FIRST_DRAW + self.place * DRAWS


class BoundCondition(Protocol):
    """A condition in the loop of one sampler.  It reads no value on the host, so that a graph can capture it."""

    def data(self, sample_ids: Tensor) -> Data:
        """Return the data of ``sample_ids`` (B,); ids without data get arbitrary values."""

    def empty_data(self, batch: int) -> Data:
        """Return tensors shaped like `data`, for a captured loop to fill."""


@runtime_checkable
class StateCondition(BoundCondition, Protocol):
    """A condition that changes the state, in place."""

    def start(self, state: Tensor, data: Data, sample_ids: Tensor, *, run_seed: int, precise: bool) -> None:
        """Act on the prior sample."""

    def after_row(
        self, state: Tensor, data: Data, sample_ids: Tensor, counter: Tensor, *, run_seed: int, precise: bool
    ) -> None:
        """Act on the state after the row ``counter`` (1,)."""


@runtime_checkable
class GuidanceCondition(BoundCondition, Protocol):
    """A log-likelihood of the state whose gradient guides the samples."""

    @property
    def through_network(self) -> bool:
        """Whether the log-likelihood depends on the network's output, so that the network is differentiated too."""

    @property
    def pushes(self) -> bool:
        """Whether the gradient is added to the state after each row with an evaluation; otherwise to the score."""

    def log_likelihood(self, x: Tensor, output: Tensor, data: Data, counter: Tensor) -> Tensor:
        """Return (B,), differentiable, for the state ``x`` at row ``counter`` (1,) and the network's ``output``."""

    def bounded(self, gradient: Tensor, counter: Tensor) -> Tensor:
        """Return the gradient (B, ...) in the state, limited as the condition wants it."""


@dataclass(frozen=True)
class BoundConditions:
    """The conditions of one run.

    Attributes:
        on_state, guidance: the two kinds, each in the order in which they act.
        to_output: (rows,) float32, the factor from an addition to the score to one to the network's output.
        parts: images in a state; the score is that of the last.
    """

    on_state: tuple[StateCondition, ...] = ()
    guidance: tuple[GuidanceCondition, ...] = ()
    to_output: Tensor | None = None
    parts: int = 1

    @property
    def all(self) -> tuple[BoundCondition, ...]:
        """Every condition, in the order of their data."""
        return *self.on_state, *self.guidance

    @property
    def through_network(self) -> bool:
        """Whether the network is differentiated."""
        return any(condition.through_network for condition in self.guidance)


NO_CONDITIONS = BoundConditions()


class Condition(Protocol):
    """A condition as the user makes it."""

    def bind(self, run: RunContext) -> StateCondition | GuidanceCondition:
        """Return the condition for the loop of ``run``.

        Raises:
            ValueError: it does not fit the model or the solver.
        """

    def require_seeds(self, seeds: Sequence[int]) -> None:
        """Raise ``ValueError`` unless there is data for every seed."""

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the pixels, as plain values."""


Conditions = Condition | Sequence[Condition] | None
"""One condition, several that act one after the other, or none."""


def as_conditions(conditions: Conditions) -> tuple[Condition, ...]:
    """Return every condition that the user gave, in order.

    Raises:
        ValueError: there are more than `MAX_CONDITIONS`.
    """
    if conditions is None:
        return ()
    given = tuple(conditions) if isinstance(conditions, Sequence) else (conditions,)
    if len(given) > MAX_CONDITIONS:
        raise ValueError(f"there are {len(given)} conditions; a run takes at most {MAX_CONDITIONS}: join some into one")
    return given


def bind_all(
    conditions: Sequence[Condition],
    model: ScoreFunction,
    table: StepTable,
    options: SolverOptions,
    device: torch.device,
    backend: str | None,
) -> BoundConditions:
    """Bind conditions to one run, each with its own draws; the errors are those of `Condition.bind`."""
    runs = (RunContext(model, table, options, device, backend, place) for place in range(len(conditions)))
    bound = [condition.bind(run) for condition, run in zip(conditions, runs, strict=True)]
    return BoundConditions(
        tuple(condition for condition in bound if isinstance(condition, StateCondition)),
        tuple(condition for condition in bound if isinstance(condition, GuidanceCondition)),
        row_table(1 / model.parametrisation.output_scale(table.times), device),
        model.sde.parts,
    )


def row_table(values: Array, device: torch.device) -> Tensor:
    """Return float64 numbers of each row (rows, ...) as float32 on the device."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(device, torch.float32)


def describe_all(conditions: Sequence[Condition]) -> dict[str, Any]:
    """Return the descriptions of all conditions under the name "condition"; empty without conditions."""
    return {"condition": [condition.describe() for condition in conditions]} if conditions else {}


class Guided(NamedTuple):
    """The result of a guided evaluation.

    Attributes:
        output: the network's output, with the guidance of the score added.
        push: (B, ...) what is added to the state after the row, or None.
        health: (), the sum of all gradients: finite if and only if they are.
    """

    output: Tensor
    push: Tensor | None
    health: Tensor


def evaluate_guided(
    evaluate: Evaluate, conditions: BoundConditions, x: Tensor, data: Sequence[Data], counter: Tensor
) -> Guided:
    """Evaluate the network at ``x`` (B, ...) and row ``counter`` (1,), guided by conditions with the given ``data``.

    The network is evaluated once, and differentiated once for each log-likelihood that depends on its output.
    """
    assert conditions.to_output is not None
    of_score: Tensor | None = None
    push: Tensor | None = None
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        with torch.set_grad_enabled(conditions.through_network):
            output = evaluate(x, counter)
        waiting = sum(condition.through_network for condition in conditions.guidance)
        for condition, held in zip(conditions.guidance, data, strict=True):
            waiting -= condition.through_network
            log_likelihood = condition.log_likelihood(x, output, held, counter).sum()
            # The conditions that still wait share the network's part of the graph.
            (gradient,) = torch.autograd.grad(log_likelihood, x, retain_graph=waiting > 0)
            gradient = condition.bounded(gradient, counter)
            if condition.pushes:
                push = gradient if push is None else push + gradient
            else:
                of_score = gradient if of_score is None else of_score + gradient
    output = output.detach()
    if of_score is not None:
        scale = conditions.to_output.index_select(0, counter)
        output = output + scale * of_score.chunk(conditions.parts, dim=1)[-1]
    gradients = [gradient for gradient in (of_score, push) if gradient is not None]
    return Guided(output, push, torch.stack([gradient.sum() for gradient in gradients]).sum())
