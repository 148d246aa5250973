# SPDX-License-Identifier: Apache-2.0
"""Inputs of a network besides the state and the time: class labels, embeddings or images, for each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scoresde_fast.loop.condition import Data
from scoresde_fast.loop.network_guidance import Autoguidance, ClassifierFreeGuidance, NetworkGuidance
from scoresde_fast.loop.seeds import BoundItems, SeedAssignment
from scoresde_fast.model import ScoreFunction, network_inputs, require_output
from scoresde_fast.networks import ScoreNetwork
from scoresde_fast.sdes import Array


class Inputs:
    """Inputs of a network, such as class labels, with a row for each seed.

    Args:
        values: tensors or arrays (N, ...) by the name of the network's argument.
        seeds: the seeds of the rows, N or a multiple of it; None: seed s gets the row s mod N.

    Raises:
        ValueError: there is no input, the numbers of rows differ, or the seeds do not divide among the rows.
    """

    def __init__(self, values: Mapping[str, Any], seeds: Sequence[int] | None = None) -> None:
        if not isinstance(values, Mapping) or not values:
            raise ValueError(f"inputs is of type {type(values).__name__}; pass values by name, such as {{'y': [1, 2]}}")
        self.values = {name: _as_input(name, value) for name, value in values.items()}
        counts = {name: len(value) for name, value in self.values.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise ValueError(f"the inputs have {counts} rows; give each input the same number of rows, at least one")
        count = next(iter(counts.values()))
        if seeds is not None and len(seeds) % count:
            raise ValueError(
                f"the inputs {list(counts)} have {count} rows for {len(seeds)} seeds; give a row for each seed, or one "
                "for all"
            )
        self.assignment = SeedAssignment(count, "input", seeds, round_robin=seeds is None)

    @classmethod
    def of(cls, inputs: Inputs | Mapping[str, Any] | None, seeds: Sequence[int]) -> Inputs | None:
        """Return ``inputs``; values by name are assigned to the seeds in order, or if there is one row, to all."""
        if inputs is None or isinstance(inputs, Inputs):
            return inputs
        one_row = all(len(value) == 1 for value in inputs.values() if hasattr(value, "__len__"))
        return cls(inputs, None if one_row else seeds)

    def describe(self) -> dict[str, str]:
        """Return a hash of each input, as JSON values."""
        return {name: self.assignment.sha256(value) for name, value in self.values.items()}


def _as_numbers(name: str, value: Any) -> Tensor:
    try:
        return value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value), device="cpu")
    except (TypeError, ValueError) as error:
        raise ValueError(f"input {name!r} is of type {type(value).__name__}; it must be an array of numbers") from error


def _as_input(name: str, value: Any) -> Tensor:
    tensor = _as_numbers(name, value)
    if tensor.ndim == 0:
        raise ValueError(f"input {name!r} is {value!r}; it must have a row for each seed, such as [{value!r}]")
    return tensor.float() if tensor.dtype == torch.float64 else tensor


InputValues = Inputs | Mapping[str, Any] | None
"""`Inputs`, or their values by name, or none."""


@dataclass(frozen=True, eq=False)
class NetworkInputs:
    """The inputs of a network in one run, and its guidance.

    Attributes:
        source: the inputs; None if the network takes only the state and the time.
        guidance: the guidance by a weaker network.
        items: the inputs on the device of the run.
        null: for classifier-free guidance the null value (1, ...) of each input; None for an input that is kept.
    """

    source: Inputs | None = None
    guidance: NetworkGuidance | None = None
    items: BoundItems | None = None
    null: tuple[Tensor | None, ...] = ()

    @classmethod
    def bind(
        cls, inputs: InputValues, guidance: NetworkGuidance | None, model: ScoreFunction, device: torch.device
    ) -> NetworkInputs:
        """Return the inputs and the guidance for a model on its device, which is evaluated once with them.

        Raises:
            ValueError: the network takes no inputs or other ones, or the guidance does not fit the inputs or the model.
        """
        source = inputs if isinstance(inputs, Inputs) or inputs is None else Inputs(inputs)
        values = {} if source is None else {name: value.to(device) for name, value in source.values.items()}
        if values and isinstance(model.network, ScoreNetwork):
            raise ValueError(f"inputs are {sorted(values)}, but {type(model.network).__name__} takes none: omit them")
        if guidance is not None:
            _require_guidance(guidance, model)
        null: list[Tensor | None] = [None] * len(values)
        if isinstance(guidance, ClassifierFreeGuidance):
            null = _null_values(guidance, values)
        elif isinstance(guidance, Autoguidance):
            _require_same_output(guidance, model)
            guidance.model.to(device)
        if values or network_inputs(model.network):
            require_output(model, {name: value[_extreme_rows(value)] for name, value in values.items()})
        if any(row is not None for row in null):
            rows = zip(values.items(), null, strict=True)
            require_output(
                model,
                {name: (value[:1] if row is None else row).expand(2, *value.shape[1:]) for (name, value), row in rows},
            )
        items = None if source is None else BoundItems(source.assignment, *values.values())
        return cls(source, guidance, items, tuple(null))

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that guide."""
        return (self.guidance.model.network,) if isinstance(self.guidance, Autoguidance) else ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs, in the order of the data."""
        return () if self.source is None else tuple(self.source.values)

    @property
    def memory(self) -> str:
        """What an evaluation needs memory for besides the state: the inputs of a sample, and the guidance."""
        shapes = {} if self.source is None else {name: list(v.shape[1:]) for name, v in self.source.values.items()}
        guidance = "" if self.guidance is None else f" with {type(self.guidance).__name__}"
        return (f" and inputs {shapes}" if shapes else "") + guidance

    def data(self, sample_ids: Tensor) -> Data:
        """Return the inputs (B, ...) of ``sample_ids`` (B,)."""
        return () if self.items is None else self.items.data(sample_ids)

    def empty_data(self, batch: int) -> Data:
        """Return tensors in the shapes of `data`."""
        return () if self.items is None else self.items.empty_data(batch)

    def require_seeds(self, seeds: Sequence[int]) -> None:
        """Raise ``ValueError`` unless every seed has inputs."""
        if self.source is not None:
            self.source.assignment.require(seeds)

    def scales(self, t: Array) -> Array:
        """Return the scale of the guidance at each time; where it is 1, one evaluation is enough."""
        return np.ones_like(t) if self.guidance is None else self.guidance.scales(t)

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""
        inputs = {} if self.source is None else {"inputs": self.source.describe()}
        return inputs | ({} if self.guidance is None else {"guidance": self.guidance.describe()})


NO_INPUTS = NetworkInputs()


def _extreme_rows(value: Tensor) -> list[int]:
    """Return the rows with the smallest and the largest number, such as class labels outside of an embedding."""
    totals = value.flatten(1).double().sum(1) if value.ndim > 1 else value
    return [int(totals.argmin()), int(totals.argmax())]


def _require_guidance(guidance: NetworkGuidance, model: ScoreFunction) -> None:
    """Raise an error unless ``guidance`` guides at any time of the model."""
    if not isinstance(guidance, NetworkGuidance):
        raise TypeError(
            f"guidance is of type {type(guidance).__name__}; pass ClassifierFreeGuidance(scale=..., null=...) or "
            "Autoguidance(scale=..., model=...)"
        )
    low, high = guidance.interval or (0.0, model.sde.T)
    if low > model.sde.T or high < model.sde.sampling_eps:
        raise ValueError(
            f"interval is {guidance.interval}, but the times of {model.sde.name!r} are from {model.sde.sampling_eps:g} "
            f"to {model.sde.T:g}: give times between them"
        )


def _as_null(name: str, null: Any, value: Tensor) -> Tensor:
    """Return a null value in the shape of a row of ``value``, which a single number fills."""
    row = _as_numbers(f"null {name}", null).to(value.device)
    return row.expand(value.shape[1:]) if row.ndim == 0 else row


def _null_values(guidance: ClassifierFreeGuidance, values: Mapping[str, Tensor]) -> list[Tensor | None]:
    """Return the null value (1, ...) of each input, or None for an input that is kept."""
    if not guidance.null or not guidance.null.keys() <= values.keys():
        raise ValueError(
            f"the null inputs of the guidance are {sorted(guidance.null)}, but the inputs are {sorted(values)}: give "
            "the null value of at least one input"
        )
    null: list[Tensor | None] = []
    for name, value in values.items():
        row = None if name not in guidance.null else _as_null(name, guidance.null[name], value)
        if row is not None and row.is_floating_point() and not value.is_floating_point():
            raise ValueError(
                f"the null value of {name!r} is {row.tolist()}, but the input has integers: give an integer"
            )
        if row is not None and row.shape != value.shape[1:]:
            raise ValueError(
                f"the null value of {name!r} has shape {tuple(row.shape)}, but a row of the input has "
                f"{tuple(value.shape[1:])}; give one of that shape"
            )
        null.append(None if row is None else row[None].to(value.dtype))
    return null


def _require_same_output(guidance: Autoguidance, model: ScoreFunction) -> None:
    """Raise ``ValueError`` unless the outputs of both networks can be combined."""
    weak, strong = ((each.image_shape, each.parametrisation.describe()) for each in (guidance.model, model))
    if weak != strong:
        raise ValueError(
            f"the guiding model has shape and parametrisation {weak}, but the model has {strong}: autoguidance needs "
            "two models with the same"
        )
