# SPDX-License-Identifier: Apache-2.0
"""Exponential moving average of weights, with the original's warm-up."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class EMA:
    """shadow <- d shadow + (1 - d) weight, with d = min(decay, (1 + n) / (10 + n)) at the n-th update."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.parameters: list[Tensor] = [p for p in parameters if p.requires_grad]
        self.shadow = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.shadow, self.parameters, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their averages: once to look through the averages, once more to go on."""
        for weight, average in zip(self.parameters, self.shadow, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, int | list[Tensor]]:
        """The number of updates and the averages, in the order of the trainable parameters."""
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, int | list[Tensor]]) -> None:
        """Take back what `state_dict` gave."""
        updates, shadow = state["updates"], state["shadow"]
        assert isinstance(updates, int) and isinstance(shadow, list)
        self.updates = updates
        for average, saved in zip(self.shadow, shadow, strict=True):
            average.copy_(saved)
