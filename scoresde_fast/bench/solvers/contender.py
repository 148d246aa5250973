# SPDX-License-Identifier: Apache-2.0
"""What can be compared: anything that turns seeds into samples and says what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from scoresde_fast.devices import Precision
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sampler import Sampler

BUDGETS = (5, 10, 15, 20, 25, 50, 100)


class Telling(IntEnum):
    """How much a line tells, the most first: in this order lines are measured."""

    USUAL = 0
    """A solver at its usual order on the grid that suits the SDE."""
    REFERENCE = 1
    OTHER_GRID = 2
    OTHER_ORDER = 3
    OTHER_BOTH = 4


@dataclass(frozen=True)
class Case:
    """What a line of the comparison is; two lines that have the same are the same.

    Attributes:
        name: what the plots call it: lines of one name make one curve.
        solver: the solver's name.
        flow: it follows the probability flow, without noise after the prior.
        order: the solver's order, where it has several.
        grid: the time grid, where it has one.
        budget: the most network evaluations that it may take, or None:
        tolerance: what an adaptive solver is given in its place.
        options: what else it is given.
        reference: it is what the others are measured by, not one of them.
    """

    name: str
    solver: str
    flow: bool
    order: int | None = None
    grid: str | None = None
    budget: int | None = None
    tolerance: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    reference: bool = False


class Drawn(NamedTuple):
    """Samples (N, C, H, W) of N seeds in their order, and the network evaluations each took, in the mean."""

    samples: Tensor
    nfe: float


@dataclass(frozen=True)
class Ready:
    """A contender that can run.

    Attributes:
        nfe: network evaluations a sample takes; about, where the run decides.
        steps: its steps, where they are fixed.
        digest: changes where the method changes, its name aside: kept results are known by it.
        draw: seeds -> samples.
        warm_up: makes ready what should not be timed.
        flow_end: of a deterministic solver, seeds -> where its flow ends at the SDE's eps, before any denoising.
    """

    nfe: float
    steps: int | None
    digest: str
    draw: Callable[[Sequence[int]], Drawn]
    warm_up: Callable[[], object]
    flow_end: Callable[[Sequence[int]], Tensor] | None = None


class Contender(Protocol):
    """One line of the comparison."""

    @property
    def case(self) -> Case: ...

    @property
    def telling(self) -> Telling: ...

    def ready(self) -> Ready:
        """Raises ValueError, with the reason, where this cannot run on the model."""
        ...


@dataclass(frozen=True)
class Rules:
    """What all lines have in common, and which are wanted.

    Attributes:
        budgets: network evaluations, each at least 1.
        solvers: names; none: all that the model's SDE has.
        extra: names that are compared in any case.
        grids: names; none: all.
        reference_steps: of the reference line; None: there is none.
        batch_size: samples at once.
        device, precision: as of `Sampler`.
    """

    budgets: tuple[int, ...] = BUDGETS
    solvers: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    grids: tuple[str, ...] = ()
    reference_steps: int | None = None
    batch_size: int = 100
    device: torch.device | str = "cpu"
    precision: Precision = "auto"


Family = Callable[[ScoreFunction, Rules], Iterable[Contender]]
"""Contenders of one kind on a model."""


def warm_up(sampler: Sampler) -> None:
    """Fold the network; on a GPU also what the first batch pays for."""
    sampler.runner.refresh()
    if sampler.device.type == "cuda":
        sampler.sample(range(sampler.batch_size))
