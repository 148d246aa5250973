# SPDX-License-Identifier: Apache-2.0
"""Conditions on samples: changes of the state after each row, and guidance by gradients of log-likelihoods.

A `Condition` is independent of the model; `Condition.bind` returns the object that the loop of one sampler calls.  A
`StateCondition` changes the state after every update, as `scoresde_fast.Projection` does.  A `GuidanceCondition` is a
log-likelihood whose gradient guides the samples (Song et al. 2021, appendix I):

    grad log p_t(x | y) = grad log p_t(x) + grad log p_t(y | x)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.errors import shown
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sdes import Array
from scoresde_fast.solvers import SolverOptions, StepTable

FIRST_DRAW = 2**31
"""The first draw of conditions: far above a solver's draws, so that a solver's noise does not depend on conditions."""
DRAWS = 2**24
"""Number of draws reserved for each condition of a run."""
MAX_CONDITIONS = 2**31 // DRAWS
"""Maximum number of conditions of a run."""

Evaluate = Callable[..., Tensor]
"""``evaluate(x, row, *inputs)``: (B, ...) float32, (1,) int64 and inputs (B, ...) -> the network's output, contiguous.

For pairs (B, 2C, ...) of position and velocity the output is (B, C, ...), for the velocity."""
Data = tuple[Tensor, ...]
"""The data of a condition for the samples of a batch; every tensor is (B, ...)."""


@dataclass(frozen=True)
class RunContext:
    """The run that a condition is bound to.

    Attributes:
        model: the model, on ``device``.
        table, options: the rows of the run, and the options from which they were built.
        device: the device of the states.
        backend: as in `scoresde_fast.ops.Operation.choose`.
        index: the index of the condition among the run's conditions.
    """

    model: ScoreFunction
    table: StepTable
    options: SolverOptions
    device: torch.device
    backend: str | None = None
    index: int = 0

    @property
    def first_draw(self) -> int:
        """The first of the condition's `DRAWS` draws."""
        return FIRST_DRAW + self.index * DRAWS


class BoundCondition(Protocol):
    """A condition in the loop of one sampler.  Its methods read no tensor value on the host: a graph captures them."""

    def data(self, sample_ids: Tensor) -> Data:
        """Return the data of ``sample_ids`` (B,); ids without data get arbitrary values."""

    def empty_data(self, batch: int) -> Data:
        """Return tensors in the shapes of `data`, which the loop fills before each run."""


@runtime_checkable
class StateCondition(BoundCondition, Protocol):
    """A condition that changes the state, in place."""

    def start(self, state: Tensor, data: Data, sample_ids: Tensor, *, run_seed: int) -> None:
        """Change the prior sample."""

    def after_row(self, state: Tensor, data: Data, sample_ids: Tensor, counter: Tensor, *, run_seed: int) -> None:
        """Change the state after the row ``counter`` (1,)."""


@runtime_checkable
class GuidanceCondition(BoundCondition, Protocol):
    """A log-likelihood of the state whose gradient guides the samples."""

    @property
    def through_network(self) -> bool:
        """Whether the log-likelihood depends on the network's output: its gradient then passes through the network."""

    @property
    def pushes(self) -> bool:
        """Whether the gradient is added to the state after each row with an evaluation; otherwise to the score."""

    def log_likelihood(self, x: Tensor, output: Tensor, data: Data, counter: Tensor) -> Tensor:
        """Return log p(y | x) (B,), differentiable, for the state ``x`` at row ``counter`` (1,) with ``output``."""

    def limit_gradient(self, gradient: Tensor, counter: Tensor) -> Tensor:
        """Return the gradient (B, ...) with respect to the state, shortened where it is too long."""


@dataclass(frozen=True)
class BoundConditions:
    """The conditions of one run.

    Attributes:
        on_state, guidance: the conditions of each kind, in the order given.
        to_output: (rows,) float32; an addition to the score times this factor is an addition to the network's output.
        parts: the number of images in a state, 2 for pairs of position and velocity; the score is of the last image.
    """

    on_state: tuple[StateCondition, ...] = ()
    guidance: tuple[GuidanceCondition, ...] = ()
    to_output: Tensor | None = None
    parts: int = 1

    @property
    def all(self) -> tuple[BoundCondition, ...]:
        """All conditions, in the order of their data."""
        return *self.on_state, *self.guidance

    @property
    def through_network(self) -> bool:
        """Whether any gradient passes through the network."""
        return any(condition.through_network for condition in self.guidance)


NO_CONDITIONS = BoundConditions()


class Condition(Protocol):
    """A condition as the user creates it."""

    def bind(self, run: RunContext) -> StateCondition | GuidanceCondition:
        """Return the condition for the loop of ``run``.

        Raises:
            ValueError: the condition does not fit the model or the solver.
        """

    def require_seeds(self, seeds: Sequence[int]) -> None:
        """Raise ``ValueError`` unless there is data for every seed."""

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""


Conditions = Condition | Sequence[Condition] | None
"""No condition, one, or several that are applied in order."""


def as_conditions(conditions: Conditions) -> tuple[Condition, ...]:
    """Return the conditions as a tuple.

    Raises:
        ValueError: there are more than `MAX_CONDITIONS`, or one is no condition.
    """
    if conditions is None:
        return ()
    several = tuple(conditions) if isinstance(conditions, Sequence) else (conditions,)
    for condition in several:
        if not callable(getattr(condition, "bind", None)):
            raise ValueError(f"condition is {shown(condition)}; it must be a condition such as Projection, or several")
    if len(several) > MAX_CONDITIONS:
        raise ValueError(f"there are {len(several)} conditions; a run takes at most {MAX_CONDITIONS}: combine some")
    return several


def bind_all(conditions: Sequence[Condition], run: RunContext) -> BoundConditions:
    """Bind conditions to one run, each with its own draws.

    Raises:
        TypeError: a bound condition is neither a `StateCondition` nor a `GuidanceCondition`.
        ValueError: see `Condition.bind`.
    """
    bound = [condition.bind(replace(run, index=index)) for index, condition in enumerate(conditions)]
    for condition in bound:
        _require_kind(condition)
    return BoundConditions(
        tuple(condition for condition in bound if isinstance(condition, StateCondition)),
        tuple(condition for condition in bound if isinstance(condition, GuidanceCondition)),
        row_table(1 / run.model.parametrisation.output_scale(run.table.times), run.device),
        run.model.sde.parts,
    )


def _require_kind(bound: object) -> None:
    """Raise ``TypeError`` unless ``bound`` is a `StateCondition` or a `GuidanceCondition`."""
    if isinstance(bound, StateCondition | GuidanceCondition):
        return
    for_state, for_guidance = (
        ", ".join(name for name in dir(kind) if not name.startswith("_") and not hasattr(bound, name))
        for kind in (StateCondition, GuidanceCondition)
    )
    raise TypeError(
        f"a condition was bound as {type(bound).__name__}, which is neither a StateCondition (missing: {for_state}) "
        f"nor a GuidanceCondition (missing: {for_guidance}); add the missing members of one"
    )


def row_table(values: Array, device: torch.device) -> Tensor:
    """Return float64 values of each row (rows, ...) as float32 on the device."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(device, torch.float32)


class Guided(NamedTuple):
    """The result of a guided evaluation.

    Attributes:
        output: the network's output, plus the guidance of the score.
        push: (B, ...) the addition to the state after the row, or None.
        health: (), the sum of all gradients, to detect NaN and infinity.
    """

    output: Tensor
    push: Tensor | None
    health: Tensor


def evaluate_guided(
    evaluate: Evaluate, conditions: BoundConditions, x: Tensor, data: Sequence[Data], counter: Tensor
) -> Guided:
    """Evaluate the network at ``x`` (B, ...) and row ``counter`` (1,), guided by conditions with their ``data``.

    The network is evaluated once, and differentiated once for each log-likelihood that depends on its output.
    """
    assert conditions.to_output is not None
    to_score: Tensor | None = None
    push: Tensor | None = None
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        with torch.set_grad_enabled(conditions.through_network):
            output = evaluate(x, counter)
        remaining = sum(condition.through_network for condition in conditions.guidance)
        for condition, own_data in zip(conditions.guidance, data, strict=True):
            remaining -= condition.through_network
            log_likelihood = condition.log_likelihood(x, output, own_data, counter).sum()
            # The remaining conditions differentiate through the same evaluation of the network.
            (gradient,) = torch.autograd.grad(log_likelihood, x, retain_graph=remaining > 0)
            gradient = condition.limit_gradient(gradient, counter)
            if condition.pushes:
                push = gradient if push is None else push + gradient
            else:
                to_score = gradient if to_score is None else to_score + gradient
    output = output.detach()
    if to_score is not None:
        scale = conditions.to_output.index_select(0, counter)
        output = output + scale * to_score.chunk(conditions.parts, dim=1)[-1]
    gradients = [gradient for gradient in (to_score, push) if gradient is not None]
    return Guided(output, push, torch.stack([gradient.sum() for gradient in gradients]).sum())
