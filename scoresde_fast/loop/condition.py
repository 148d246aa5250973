# SPDX-License-Identifier: Apache-2.0
"""Conditions: what the samples of a run are held to, inside its loop.

A condition is made by the user, for any model; `Condition.bind` makes of it what one sampler's loop calls, and each
kind is a class of its own.  `StateCondition` ones change the state after every update, as
`scoresde_fast.Projection` does; `GuidanceCondition` ones change what moves it, by the gradient of a log-likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.model import ScoreFunction
from scoresde_fast.sdes import Array
from scoresde_fast.solvers import SolverOptions, StepTable

FIRST_DRAW = 2**31
"""The draws of conditions begin here, far above a solver's, so that these stay what they are without conditions."""
DRAWS = 2**24
"""How many draws each condition of a run has for itself."""
MOST = 2**31 // DRAWS
"""Conditions of a run."""


@dataclass(frozen=True)
class Run:
    """What a condition is told of the run that it is to act in.

    Attributes:
        model: on its device.
        table, options: the run's rows, and what they were made from.
        device: where the states are.
        backend: as in `scoresde_fast.ops.Operation.choose`.
        place: the condition's number among those of the run.
    """

    model: ScoreFunction
    table: StepTable
    options: SolverOptions
    device: torch.device
    backend: str | None = None
    place: int = 0

    @property
    def first_draw(self) -> int:
        """The first of the condition's own draws, of which there are `DRAWS`."""
        return FIRST_DRAW + self.place * DRAWS


Data = tuple[Tensor, ...]
"""What a condition holds of each sample of a batch: every tensor is (B, ...)."""


class BoundCondition(Protocol):
    """A condition in the loop of one sampler.

    What it does there reads no value on the host, so that it can be captured.
    """

    def data(self, sample_ids: Tensor) -> Data:
        """The data of the samples ``sample_ids`` (B,); those that are none of the condition's get any."""

    def empty_data(self, batch: int) -> Data:
        """As `data`, to be filled: where a captured loop keeps it."""


@runtime_checkable
class StateCondition(BoundCondition, Protocol):
    """A condition that changes the state, in place."""

    def start(self, state: Tensor, data: Data, sample_ids: Tensor, *, run_seed: int, precise: bool) -> None:
        """Act on the prior sample."""

    def after_row(
        self, state: Tensor, data: Data, sample_ids: Tensor, counter: Tensor, *, run_seed: int, precise: bool
    ) -> None:
        """Act on the state that the row has made which ``counter`` (1,) names."""


@runtime_checkable
class GuidanceCondition(BoundCondition, Protocol):
    """A condition that is a log-likelihood of the state, whose gradient guides the samples."""

    @property
    def through_network(self) -> bool:
        """Whether it depends on the network's output, whose gradient is then wanted too."""

    @property
    def pushes(self) -> bool:
        """Whether its gradient is added to the state after each row that evaluates the network; else to the score."""

    def log_likelihood(self, x: Tensor, output: Tensor, data: Data, counter: Tensor) -> Tensor:
        """(B,) of the state ``x`` at row ``counter`` (1,), where the network says ``output``; differentiable."""

    def bounded(self, gradient: Tensor, counter: Tensor) -> Tensor:
        """The gradient (B, ...) in the state as it is to be used."""


@dataclass(frozen=True)
class BoundConditions:
    """The conditions of one run.

    Attributes:
        holding, guiding: each in the order in which they act.
        to_output: (rows,) float32: what is added to the score, times this, is added to the network's output.
        parts: images that a state holds; the score is that of the last.
    """

    holding: tuple[StateCondition, ...] = ()
    guiding: tuple[GuidanceCondition, ...] = ()
    to_output: Tensor | None = None
    parts: int = 1

    @property
    def all(self) -> tuple[BoundCondition, ...]:
        """Every condition, in the order of their data."""
        return *self.holding, *self.guiding

    @property
    def through_network(self) -> bool:
        """Whether the network's gradient is wanted."""
        return any(condition.through_network for condition in self.guiding)


NO_CONDITIONS = BoundConditions()


class Condition(Protocol):
    """What samples are held to."""

    def bind(self, run: Run) -> StateCondition | GuidanceCondition:
        """The condition in the loop of ``run``.

        Raises:
            ValueError: it does not fit the model or the solver.
        """

    def require_seeds(self, seeds: Sequence[int]) -> None:
        """Raises ``ValueError`` unless there is data for every seed."""

    def describe(self) -> dict[str, Any]:
        """Everything of it that decides the pixels, as plain values."""


Conditions = Condition | Sequence[Condition] | None
"""One condition, several that act one after the other, or none."""


def as_conditions(conditions: Conditions) -> tuple[Condition, ...]:
    """Every condition that the user gave, in order.

    Raises:
        ValueError: there are too many.
    """
    if conditions is None:
        return ()
    given = tuple(conditions) if isinstance(conditions, Sequence) else (conditions,)
    if len(given) > MOST:
        raise ValueError(f"there are {len(given)} conditions; a run takes at most {MOST}: join some into one")
    return given


def bind_all(
    conditions: Sequence[Condition],
    model: ScoreFunction,
    table: StepTable,
    options: SolverOptions,
    device: torch.device,
    backend: str | None,
) -> BoundConditions:
    """The conditions in the loop of one run, each with draws of its own; the errors are those of `Condition.bind`."""
    runs = (Run(model, table, options, device, backend, place) for place in range(len(conditions)))
    bound = [condition.bind(run) for condition, run in zip(conditions, runs, strict=True)]
    return BoundConditions(
        tuple(condition for condition in bound if isinstance(condition, StateCondition)),
        tuple(condition for condition in bound if isinstance(condition, GuidanceCondition)),
        row_table(1 / model.parametrisation.output_scale(table.times), device),
        model.sde.parts,
    )


def row_table(values: Array, device: torch.device) -> Tensor:
    """Numbers of each row (rows, ...), made in float64, as a loop reads them: float32 on the device."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(device, torch.float32)


def describe_all(conditions: Sequence[Condition]) -> dict[str, Any]:
    """What `Condition.describe` says of each, under the name "condition"; nothing where there is none."""
    return {"condition": [condition.describe() for condition in conditions]} if conditions else {}
