# SPDX-License-Identifier: Apache-2.0
"""Known pixels by a mask, for inpainting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.conditions.operators.constants import DeviceConstants


class KnownPixels:
    """`Mask` of a batch on one device: ``mask`` is (1 or B, 1 or C, H, W), bool."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def mask_of(self, images: Tensor) -> Tensor:
        """Return the mask of images (B, C, H, W)."""
        return self.mask

    def apply(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return torch.where(self.mask_of(images), images, 0.0)

    def adjoint(self, measured: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return self.apply(measured)

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return self.apply(measured)

    def ridge_inverse(self, measured: Tensor, ridge: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W); see `scoresde_fast.conditions.operators.ridge_inverse`."""
        return self.apply(measured) / (1 + ridge)


class Mask(KnownPixels):
    """Known pixels unchanged, unknown ones 0: A = A^T = A^+ is diagonal.

    A measurement may hold anything at unknown pixels, even NaN.

    Args:
        mask: 1 or True where a pixel is known: (H, W) or (1, H, W) for every channel, or (C, H, W); or one for each of
            K measurements, (K, 1, H, W) or (K, C, H, W).

    Raises:
        ValueError: the mask has another shape, or values other than 0 and 1.
    """

    def __init__(self, mask: Tensor) -> None:
        shape = tuple(mask.shape)
        if not 2 <= len(shape) <= 4 or 0 in shape:
            raise ValueError(
                f"mask has shape {shape}; it must be (H, W), (1, H, W) or (C, H, W), or one for each of K "
                "measurements, (K, 1, H, W) or (K, C, H, W)"
            )
        count, *self.shape = (1, 1, *shape)[-4:]
        self._mask = DeviceConstants(whole_mask(mask, mask.new_zeros(count, *self.shape)))

    @classmethod
    def box(cls, image_shape: Sequence[int], top: int, left: int, height: int, width: int) -> Mask:
        """Return a mask that is unknown in a box of ``height`` x ``width`` pixels; rows and columns count from 0.

        Args:
            image_shape: (C, H, W) or (H, W).

        Raises:
            ValueError: the box is empty, or not within the image.
        """
        rows, columns = image_shape[-2:]
        if not (0 <= top < top + height <= rows and 0 <= left < left + width <= columns):
            raise ValueError(
                f"a box of {height} x {width} pixels at row {top} and column {left} is not within an image of "
                f"{rows} x {columns}: choose a height and width of at least 1 that end inside it"
            )
        mask = torch.ones(rows, columns, dtype=torch.bool)
        mask[top : top + height, left : left + width] = False
        return cls(mask)

    @classmethod
    def random(cls, image_shape: Sequence[int], known: float, seed: int) -> Mask:
        """Return a mask with a share ``known`` of random pixels, rounded to whole pixels and equal in every channel.

        Of two masks of one seed, the one with more known pixels contains the other.

        Args:
            image_shape: (C, H, W) or (H, W).

        Raises:
            ValueError: the share is not in [0, 1].
        """
        if not 0 <= known <= 1:
            raise ValueError(f"known is {known!r}; it must be the share of known pixels, from 0 to 1")
        rows, columns = image_shape[-2:]
        order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(seed))
        return cls((order < round(known * rows * columns)).view(rows, columns))

    def __repr__(self) -> str:
        (mask,) = self._mask.tensors
        each = f"{len(mask)} of " if len(mask) > 1 else ""
        return f"Mask({each}{' x '.join(map(str, self.shape))}, {int(mask.sum())} of {mask.numel()} known)"

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The masks (K, 1 or C, H, W) of K measurements; empty if one mask serves all."""
        (mask,) = self._mask.tensors
        return (mask,) if len(mask) > 1 else ()

    def of(self, mask: Tensor) -> KnownPixels:
        """Return the operator of a batch with these rows of `parameters`."""
        return KnownPixels(mask)

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the pixels, as plain values."""
        return {"kind": "mask", "sha256": self._mask.sha256()}

    def measured_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Return (C, H, W) for images (C, H, W); raises ``ValueError`` if the mask does not fit them."""
        channels, *size = image_shape
        if size != self.shape[1:] or self.shape[0] not in (1, channels):
            raise ValueError(
                f"the mask is {tuple(self.shape)} and the images are {tuple(image_shape)}; make a mask of shape "
                f"{tuple(size)}, {(1, *size)} or {tuple(image_shape)}"
            )
        return tuple(image_shape)

    def mask_of(self, images: Tensor) -> Tensor:
        """Return the mask on the images' device; raises ``ValueError`` if its size or number does not fit them."""
        self.measured_shape(images.shape[-3:])
        (mask,) = self._mask.like(images)
        if len(images) != len(mask) > 1:
            raise ValueError(f"there are {len(mask)} masks and {len(images)} images; give one mask, or one for each")
        return mask


def whole_mask(mask: Tensor | None, known: Tensor) -> Tensor:
    """Return the mask as bool in the shape of ``known`` (K, C', H', W'); None is known everywhere.

    Raises:
        ValueError: the mask has another size, or values other than 0 and 1.
    """
    if mask is None:
        return torch.ones_like(known, dtype=torch.bool)
    mask = torch.as_tensor(mask)
    shape = tuple(mask.shape)
    allowed = [shape[-2:], *((channels, *shape[-2:]) for channels in (1, known.shape[1]))]
    fits = mask.ndim >= 2 and shape[-2:] == known.shape[-2:]
    if mask.ndim == 4:
        fits = fits and shape[0] in (1, len(known)) and shape[1:] in allowed
    else:
        fits = fits and shape in allowed
    if not fits:
        raise ValueError(
            f"mask has shape {shape}; for known of shape {tuple(known.shape)} it must be {tuple(known.shape[-2:])}, "
            f"(1, ...), {tuple(known.shape[1:])}, or one for each image"
        )
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise ValueError("mask has values other than 0 and 1; 1 is known, 0 unknown: compare it with a threshold")
    return mask.to(known.device).bool().expand(known.shape).contiguous()
