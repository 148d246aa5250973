# SPDX-License-Identifier: Apache-2.0
"""One way to say that a number or the size of an image is wrong, for all operators."""

from __future__ import annotations

from torch import Tensor


def require_whole(name: str, value: object, least: int) -> None:
    """Raises ``ValueError`` unless ``value`` is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")


def require_size(name: str, tensor: Tensor, size: tuple[int, int]) -> None:
    """Raises ``ValueError`` unless ``tensor`` (..., H, W) is of that size."""
    if tuple(tensor.shape[-2:]) != size:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; for this operator it must be (B, C, {size[0]}, {size[1]})"
        )
