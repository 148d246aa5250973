# SPDX-License-Identifier: Apache-2.0
"""The mean over the channels, for colorization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.errors import require_integer


@dataclass(frozen=True)
class Gray:
    """The mean over the channels of each pixel: A A^T = I / C.

    Attributes:
        channels: C.

    Raises:
        ValueError: ``channels`` is not an integer of at least 1.
    """

    channels: int = 3

    def __post_init__(self) -> None:
        require_integer("channels", self.channels, 1)

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""
        return {"kind": "gray", "channels": self.channels}

    def measured_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Return (1, H, W) for images (C, H, W); raise ``ValueError`` for another number of channels."""
        if image_shape[0] != self.channels:
            raise ValueError(
                f"the images have shape {tuple(image_shape)}, but this operator has {self.channels} channels: use "
                f"Gray({image_shape[0]})"
            )
        return (1, *image_shape[1:])

    def apply(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 1, H, W)."""
        self.measured_shape(images.shape[-3:])
        return images.mean(-3, keepdim=True)

    def adjoint(self, measured: Tensor) -> Tensor:
        """Map (B, 1, H, W) to (B, C, H, W)."""
        return self.pseudo_inverse(measured) / self.channels

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        """Map (B, 1, H, W) to (B, C, H, W) with equal channels."""
        if measured.shape[-3] != 1:
            raise ValueError(
                f"measured has {measured.shape[-3]} channels, but gray has one: take the mean, "
                "images.mean(1, keepdim=True)"
            )
        return torch.cat([measured] * self.channels, dim=-3)

    def ridge_inverse(self, measured: Tensor, ridge: Tensor) -> Tensor:
        """Map (B, 1, H, W) to (B, C, H, W); see `scoresde_fast.conditions.operators.ridge_inverse`."""
        return self.pseudo_inverse(measured) / (1 + self.channels * ridge)
