# SPDX-License-Identifier: Apache-2.0
"""Inpainting: the pixels that a mask keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.conditions.operators.on_devices import OnDevices
from scoresde_fast.conditions.projection import whole_mask


class KnownPixels:
    """`Mask` on the images of one device; ``mask`` is (1 or B, 1 or C, H, W), of bools."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def mask_of(self, images: Tensor) -> Tensor:
        """That of images (B, C, H, W)."""
        return self.mask

    def apply(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        return torch.where(self.mask_of(images), images, 0.0)

    def adjoint(self, measured: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        return self.apply(measured)

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        return self.apply(measured)

    def ridge_inverse(self, measured: Tensor, ridge: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W); ``ridge`` as in `scoresde_fast.conditions.operators.ridge_inverse`."""
        return self.apply(measured) / (1 + ridge)


class Mask(KnownPixels):
    """Known pixels as they are, unknown ones as 0: A = A^T = A^+ is diagonal.

    What is measured where a pixel is unknown may be anything, even NaN.

    Args:
        mask: 1 or True where a pixel is known: (H, W) or (1, H, W) for every channel, or (C, H, W); or one for each of
            K measurements, (K, 1, H, W) or (K, C, H, W).

    Raises:
        ValueError: the mask has another shape, or other values than 0 and 1.
    """

    def __init__(self, mask: Tensor) -> None:
        shape = tuple(mask.shape)
        if not 2 <= len(shape) <= 4 or 0 in shape:
            raise ValueError(
                f"mask has shape {shape}; it must be (H, W), (1, H, W) or (C, H, W), or one for each of K "
                "measurements, (K, 1, H, W) or (K, C, H, W)"
            )
        count, *self.shape = (1, 1, *shape)[-4:]
        self._mask = OnDevices(whole_mask(mask, mask.new_zeros(count, *self.shape)))

    @classmethod
    def box(cls, image_shape: Sequence[int], top: int, left: int, height: int, width: int) -> Mask:
        """Everything known but a box of ``height`` x ``width`` pixels, whose first row and column are given from 0 on.

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
        """A share ``known`` of the pixels, to the nearest pixel, the same ones in every channel.

        Of two masks of one seed the one with more known pixels has all of the other's.

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
        """The masks (K, 1 or C, H, W) of K measurements; none where one mask serves all."""
        (mask,) = self._mask.tensors
        return (mask,) if len(mask) > 1 else ()

    def of(self, mask: Tensor) -> KnownPixels:
        """The operator of images that have those of `parameters`."""
        return KnownPixels(mask)

    def describe(self) -> dict[str, Any]:
        """Everything of it that decides the pixels, as plain values."""
        return {"kind": "mask", "sha256": self._mask.sha256()}

    def measured_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """(C, H, W) of the measurement of an image (C, H, W).

        Raises:
            ValueError: the mask does not fit it.
        """
        channels, *size = image_shape
        if size != self.shape[1:] or self.shape[0] not in (1, channels):
            raise ValueError(
                f"the mask is {tuple(self.shape)} and the images are {tuple(image_shape)}; make a mask of shape "
                f"{tuple(size)}, {(1, *size)} or {tuple(image_shape)}"
            )
        return tuple(image_shape)

    def mask_of(self, images: Tensor) -> Tensor:
        """The mask where the images are.

        Raises:
            ValueError: the mask does not fit them, or there are not as many.
        """
        self.measured_shape(images.shape[-3:])
        (mask,) = self._mask.like(images)
        if len(images) != len(mask) > 1:
            raise ValueError(f"there are {len(mask)} masks and {len(images)} images; give one mask, or as many")
        return mask
