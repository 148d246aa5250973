# SPDX-License-Identifier: Apache-2.0
"""Masking operator, for inpainting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.conditions.operators.linear import DeviceConstants
from scoresde_fast.data.arrays import ArrayLike, as_tensor


class Masking(ABC):
    """Keeps known pixels and zeroes the rest; A is a diagonal 0/1 matrix, so A = A^T = A^+."""

    @abstractmethod
    def mask_for(self, images: Tensor) -> Tensor:
        """Return the mask (1 or B, 1 or C, H, W) of known pixels, bool, for images (B, C, H, W)."""

    def apply(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return torch.where(self.mask_for(images), images, 0.0)

    def adjoint(self, measured: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return self.apply(measured)

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return self.apply(measured)

    def ridge_inverse(self, measured: Tensor, ridge: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W); see `scoresde_fast.conditions.operators.ridge_inverse`."""
        return self.apply(measured) / (1 + ridge)


class BatchMask(Masking):
    """The masking operator of one batch; ``mask`` (1 or B, 1 or C, H, W) bool is on the batch's device."""

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask

    def mask_for(self, images: Tensor) -> Tensor:
        """Return the mask."""
        return self._mask


class Mask(Masking):
    """Keeps known pixels and zeroes the rest.

    Unknown pixels of a measurement may have any value, even NaN.

    Args:
        mask: 1 or True where a pixel is known: (H, W) or (1, H, W) for all channels, or (C, H, W); or one mask for each
            of K measurements, (K, 1, H, W) or (K, C, H, W).

    Raises:
        ValueError: the mask has another shape, or values other than 0 and 1.
    """

    def __init__(self, mask: Tensor) -> None:
        shape = tuple(mask.shape)
        if not 2 <= len(shape) <= 4 or 0 in shape:
            raise ValueError(
                f"mask has shape {shape}; it must be (H, W), (1, H, W) or (C, H, W), or one mask for each of K "
                "measurements, (K, 1, H, W) or (K, C, H, W)"
            )
        count, *self.shape = (1, 1, *shape)[-4:]  # K, then C, H and W; missing ones are 1
        self._mask = DeviceConstants(expand_mask(mask, (count, *self.shape)))

    @classmethod
    def box(cls, image_shape: Sequence[int], top: int, left: int, height: int, width: int) -> Mask:
        """Return a mask in which only a box of ``height`` x ``width`` pixels is unknown; rows and columns start at 0.

        Args:
            image_shape: (C, H, W) or (H, W).

        Raises:
            ValueError: the box is empty, or not within the image.
        """
        rows, columns = image_shape[-2:]
        if not (0 <= top < top + height <= rows and 0 <= left < left + width <= columns):
            raise ValueError(
                f"a box of {height} x {width} pixels at row {top} and column {left} is not within an image of "
                f"{rows} x {columns}: choose a height and width of at least 1 that stay inside"
            )
        mask = torch.ones(rows, columns, dtype=torch.bool, device="cpu")
        mask[top : top + height, left : left + width] = False
        return cls(mask)

    @classmethod
    def random(cls, image_shape: Sequence[int], known: float, seed: int) -> Mask:
        """Return a random mask with the fraction ``known`` of pixels known, the same in every channel.

        Masks with the same seed are nested: one with a larger ``known`` contains the known pixels of a smaller one.

        Args:
            image_shape: (C, H, W) or (H, W).

        Raises:
            ValueError: ``known`` is not in [0, 1].
        """
        if not 0 <= known <= 1:
            raise ValueError(f"known is {known!r}; it must be the fraction of known pixels, from 0 to 1")
        rows, columns = image_shape[-2:]
        order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(seed))
        return cls((order < round(known * rows * columns)).view(rows, columns))

    def __repr__(self) -> str:
        (mask,) = self._mask.tensors
        prefix = f"{len(mask)} masks of " if len(mask) > 1 else ""
        return f"Mask({prefix}{' x '.join(map(str, self.shape))}, {int(mask.sum())} of {mask.numel()} known)"

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The masks (K, 1 or C, H, W) of K measurements; empty if they share one mask."""
        (mask,) = self._mask.tensors
        return (mask,) if len(mask) > 1 else ()

    def for_batch(self, mask: Tensor) -> BatchMask:
        """Return the operator for a batch, given its rows of `parameters`."""
        return BatchMask(mask)

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""
        return {"kind": "mask", "sha256": self._mask.sha256()}

    def measured_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Return (C, H, W) for images (C, H, W); raise ``ValueError`` if the mask does not fit them."""
        channels, *size = image_shape
        if size != self.shape[1:] or self.shape[0] not in (1, channels):
            raise ValueError(
                f"the mask has shape {tuple(self.shape)} and the images have {tuple(image_shape)}; use a mask of shape "
                f"{tuple(size)}, {(1, *size)} or {tuple(image_shape)}"
            )
        return tuple(image_shape)

    def mask_for(self, images: Tensor) -> Tensor:
        """Return the mask on the images' device; raise ``ValueError`` unless it fits their size and number."""
        self.measured_shape(images.shape[-3:])
        (mask,) = self._mask.like(images)
        if len(mask) > 1 and len(mask) != len(images):
            raise ValueError(f"there are {len(mask)} masks and {len(images)} images; give one mask, or one for each")
        return mask


def expand_mask(mask: ArrayLike | None, shape: Sequence[int]) -> Tensor:
    """Return the mask broadcast to ``shape`` (K, C, H, W), as bool; None means that all pixels are known.

    Raises:
        ValueError: the mask has another size, or values other than 0 and 1.
    """
    if mask is None:
        return torch.ones(*shape, dtype=torch.bool, device="cpu")
    mask = as_tensor(mask)
    if mask.dtype == torch.uint8 and ((mask == 0) | (mask == 255)).all():  # black and white
        mask = mask == 255
    count, channels, height, width = shape
    allowed = [(height, width), (1, height, width), (channels, height, width)]
    allowed += [(k, c, height, width) for k in (1, count) for c in (1, channels)]
    if tuple(mask.shape) not in allowed:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; for images of shape {tuple(shape)} it must be {(height, width)}, "
            f"{(1, height, width)}, {(channels, height, width)}, or one of these for each image"
        )
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise ValueError(
            "mask has values other than 0 and 1; 1 marks known and 0 unknown pixels: threshold the mask first"
        )
    return mask.bool().expand(*shape).contiguous()
