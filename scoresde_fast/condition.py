# SPDX-License-Identifier: Apache-2.0
"""Conditions: what the samples of a run are held to, inside its loop.

A condition is made by the user, for any model; `Condition.bind` makes of it what one sampler's loop calls.  Each kind
is a class of its own: `scoresde_fast.conditional.Projection` acts on the state after every update.  A kind that acts on
the score instead has its place in `scoresde_fast.loop.Loop.row`, between the network and the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from scoresde_fast.model import ScoreFunction
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

    `start` and `after_row` change the state in place; they read no value on the host, so that they can be captured.
    """

    def data(self, sample_ids: Tensor) -> Data:
        """The data of the samples ``sample_ids`` (B,); those that are none of the condition's get any."""

    def empty_data(self, batch: int) -> Data:
        """As `data`, to be filled: where a captured loop keeps it."""

    def start(self, state: Tensor, data: Data, sample_ids: Tensor, *, run_seed: int, precise: bool) -> None:
        """Act on the prior sample."""

    def after_row(
        self, state: Tensor, data: Data, sample_ids: Tensor, counter: Tensor, *, run_seed: int, precise: bool
    ) -> None:
        """Act on the state that the row has made which ``counter`` (1,) names."""


class Condition(Protocol):
    """What samples are held to."""

    def bind(self, run: Run) -> BoundCondition:
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
) -> tuple[BoundCondition, ...]:
    """The conditions in the loop of one run, each with draws of its own; the errors are those of `Condition.bind`."""
    runs = (Run(model, table, options, device, backend, place) for place in range(len(conditions)))
    return tuple(condition.bind(run) for condition, run in zip(conditions, runs, strict=True))


def describe_all(conditions: Sequence[Condition]) -> dict[str, Any]:
    """What `Condition.describe` says of each, under the name "condition"; nothing where there is none."""
    return {"condition": [condition.describe() for condition in conditions]} if conditions else {}
