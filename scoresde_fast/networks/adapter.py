# SPDX-License-Identifier: Apache-2.0
"""Networks of other libraries, with the inputs and outputs of the networks of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from scoresde_fast.errors import unknown_message


class Adapter(nn.Module):
    """Maps (B, *state_shape), labels (B,) to an output (B, channels, ...) with any network.

    The network may return a tensor, an object with a tensor ``sample``, or a tuple that begins with either.  Twice
    ``channels`` are a prediction and a learned variance, which is ignored.

    Args:
        network: ``network(x, labels, **inputs)``.
        channels: channels of a prediction.
        integer_labels: whether the network takes int64 labels, to which labels are rounded.
        deep_modules: names of the network's modules whose outputs may be reused between steps.

    Raises:
        ValueError: there is no module of that name, or one is inside another.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        channels: int,
        *,
        integer_labels: bool,
        deep_modules: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.deep_modules = tuple(deep_modules)
        for name in self.deep_modules:
            if name not in self.module_names():
                raise ValueError(unknown_message("deep module", name, self.module_names()))
            if outer := [other for other in self.deep_modules if name.startswith(f"{other}.")]:
                raise ValueError(f"the deep module {name!r} is inside {outer[0]!r}: name only one of them")
        self.channels = channels
        self.integer_labels = integer_labels

    @property
    def innermost(self) -> Callable[..., Any]:
        """The network of the user."""
        return self.network.network if isinstance(self.network, Conditional) else self.network

    def module_names(self) -> list[str]:
        """Return the names of the modules of the user's network; none for a function."""
        network = self.innermost
        return [name for name, _ in network.named_modules() if name] if isinstance(network, nn.Module) else []

    def forward(self, x: Tensor, labels: Tensor, **inputs: Tensor) -> Tensor:
        """Return the prediction, in the dtype of ``x``."""
        output = self.network(x, labels.round().long() if self.integer_labels else labels, **inputs)
        if isinstance(output, tuple):
            output = output[0]
        prediction = output if isinstance(output, Tensor) else getattr(output, "sample", None)
        if not isinstance(prediction, Tensor):
            raise TypeError(f"it returns {type(output).__name__}, not a tensor or an object with a tensor .sample")
        if not prediction.is_floating_point():
            raise TypeError(f"it returns numbers of {prediction.dtype}, not floating-point numbers")
        if prediction.ndim < 2:
            raise TypeError(f"it returns a tensor of shape {tuple(prediction.shape)}, not one like its samples")
        if prediction.shape[1] == 2 * self.channels:
            prediction = prediction[:, : self.channels]
        return prediction.to(x.dtype)


class Conditional(nn.Module):
    """A network that names the inputs that it needs, because its signature does not: it has defaults or ``**kwargs``.

    Args:
        network: ``network(x, labels, **inputs)``.
        required_inputs: the names of the inputs.
    """

    def __init__(self, network: Callable[..., Any], required_inputs: Iterable[str]) -> None:
        super().__init__()
        self.network = network
        self.required_inputs = list(required_inputs)

    def forward(self, x: Tensor, labels: Tensor, **inputs: Tensor) -> Any:
        """Return the output of the network."""
        return self.network(x, labels, **inputs)
