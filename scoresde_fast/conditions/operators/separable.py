# SPDX-License-Identifier: Apache-2.0
"""Operators on rows and columns, A x = R x C^T: any two matrices, Gaussian blur and super-resolution."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.conditions.operators.constants import DeviceConstants, require_whole

CUTOFF = 1e-4
"""Singular values below this share of the largest count as 0: float32 rounding of 6e-8 grows to at most 6e-4."""
MAX_CUTOFF = 1e-3
"""A larger cutoff would not give an inverse; noise is the task of a ridge."""


class Separable:
    """R x C^T of each channel x.

    The singular values of A are the products of those of R and C, which are found once, in float64 on the host.
    With s the largest, the inverses leave out directions whose singular value r has r^2 + ridge <= (cutoff s)^2; a
    larger ridge leaves out none.

    Args:
        rows: R, (H', H).
        columns: C, (W', W).
        cutoff: relative to the largest singular value.

    Raises:
        ValueError: R or C is not a matrix of finite numbers, or the cutoff is not in (0, 1e-3].
    """

    def __init__(self, rows: Tensor, columns: Tensor, cutoff: float = CUTOFF) -> None:
        for name, matrix in (("rows", rows), ("columns", columns)):
            if matrix.ndim != 2 or 0 in matrix.shape or not matrix.isfinite().all():
                raise ValueError(
                    f"{name} has shape {tuple(matrix.shape)}; it must be a matrix of finite numbers, with a row for "
                    "each measured pixel and a column for each pixel of the image"
                )
        _require_cutoff(cutoff)
        self.cutoff = cutoff
        self._matrices = DeviceConstants(rows.double(), columns.double())
        rows, columns = self._matrices.tensors
        self.measured_size, self.image_size = zip(rows.shape, columns.shape, strict=True)
        left, values, right = torch.linalg.svd(rows, full_matrices=False)
        below, others, above = torch.linalg.svd(columns, full_matrices=False)
        singular = values[:, None] * others
        self._floor = (cutoff * float(singular.max())) ** 2
        self._basis = DeviceConstants(left.mT, below, singular, right.mT, above)

    def __repr__(self) -> str:
        (rows, columns), (height, width) = self.image_size, self.measured_size
        return f"{type(self).__name__}({rows} x {columns} to {height} x {width})"

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the pixels, as plain values."""
        return {"kind": "separable", "sha256": self._matrices.sha256(), "cutoff": self.cutoff}

    def measured_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Return (C, H', W') for images (C, H, W); raises ``ValueError`` for another size."""
        if tuple(image_shape[-2:]) != self.image_size:
            height, width = self.image_size
            raise ValueError(f"the images are {tuple(image_shape)}; this operator takes {height} x {width} pixels")
        return (image_shape[0], *self.measured_size)

    def apply(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H', W')."""
        _require_size("images", images, self.image_size)
        rows, columns = self._matrices.like(images)
        return rows @ images @ columns.mT

    def adjoint(self, measured: Tensor) -> Tensor:
        """Map (B, C, H', W') to (B, C, H, W)."""
        _require_size("measured", measured, self.measured_size)
        rows, columns = self._matrices.like(measured)
        return rows.mT @ measured @ columns

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        """Map (B, C, H', W') to (B, C, H, W)."""
        return self.ridge_inverse(measured, measured.new_zeros(()))

    def ridge_inverse(self, measured: Tensor, ridge: Tensor) -> Tensor:
        """Map (B, C, H', W') to (B, C, H, W); see `scoresde_fast.conditions.operators.ridge_inverse`."""
        _require_size("measured", measured, self.measured_size)
        left, below, singular, right, above = self._basis.like(measured)
        squares = singular.square() + ridge
        gains = singular / torch.where(squares > self._floor, squares, torch.inf)
        return right @ (gains * (left @ measured @ below)) @ above


def _require_cutoff(cutoff: float) -> None:
    if not 0 < cutoff <= MAX_CUTOFF:
        raise ValueError(
            f"cutoff is {cutoff!r}; it must be above 0 and at most {MAX_CUTOFF}, relative to the largest singular "
            "value: to allow for noise, give its deviation to the guidance"
        )


def _require_size(name: str, tensor: Tensor, size: tuple[int, int]) -> None:
    if tuple(tensor.shape[-2:]) != size:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; for this operator it must be (B, C, {size[0]}, {size[1]})"
        )


class SeparableFamily(ABC):
    """A `Separable` operator for each image size, made at the first image of that size and kept."""

    cutoff = CUTOFF

    def __init__(self) -> None:
        self._of_size: dict[tuple[int, ...], Separable] = {}

    @abstractmethod
    def matrix(self, pixels: int) -> Tensor:
        """Return (n', n) float64 for n ``pixels`` in a row or column; raises ``ValueError`` if there is none."""

    @abstractmethod
    def image_pixels(self, measured: int) -> int:
        """Return n for n'."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return everything that decides the pixels, as plain values."""

    def measured_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Return (C, H', W') for images (C, H, W); raises ``ValueError`` for a size that the operator cannot take."""
        return self._separable(image_shape[-2:]).measured_shape(image_shape)

    def apply(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H', W')."""
        return self._separable(images.shape[-2:]).apply(images)

    def adjoint(self, measured: Tensor) -> Tensor:
        """Map (B, C, H', W') to (B, C, H, W)."""
        return self._of_measured(measured).adjoint(measured)

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        """Map (B, C, H', W') to (B, C, H, W)."""
        return self._of_measured(measured).pseudo_inverse(measured)

    def ridge_inverse(self, measured: Tensor, ridge: Tensor) -> Tensor:
        """Map (B, C, H', W') to (B, C, H, W); see `scoresde_fast.conditions.operators.ridge_inverse`."""
        return self._of_measured(measured).ridge_inverse(measured, ridge)

    def _of_measured(self, measured: Tensor) -> Separable:
        return self._separable([self.image_pixels(pixels) for pixels in measured.shape[-2:]])

    def _separable(self, size: Sequence[int]) -> Separable:
        found = self._of_size.get(key := tuple(size))
        if found is None:
            rows, columns = (self.matrix(pixels) for pixels in key)
            found = self._of_size.setdefault(key, Separable(rows, columns, self.cutoff))
        return found


class Blur(SeparableFamily):
    """Gaussian blur of standard deviation ``std``, with the image mirrored at its borders, the last pixel included.

    The kernel is exp(-d^2 / (2 std^2)) at the distances d = -radius .. radius, scaled to the sum 1.

    Args:
        std: in pixels.
        radius: in pixels; None: 4 std, rounded, but at least 1.
        cutoff: as in `Separable`: frequencies that the blur damps below this share are not sharpened.

    Raises:
        ValueError: the deviation is not above 0, the radius is not a whole number of at least 1, or the cutoff is not
            in (0, 1e-3].
    """

    def __init__(self, std: float, radius: int | None = None, cutoff: float = CUTOFF) -> None:
        super().__init__()
        if not 0 < std < math.inf:
            raise ValueError(f"std is {std!r}; it must be a finite number of pixels above 0")
        self.std = float(std)
        self.radius = max(1, int(4 * std + 0.5)) if radius is None else radius
        require_whole("radius", self.radius, 1)
        _require_cutoff(cutoff)
        self.cutoff = cutoff

    def __repr__(self) -> str:
        return f"Blur(std={self.std:g}, radius={self.radius})"

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the pixels, as plain values."""
        return {"kind": "blur", "std": self.std, "radius": self.radius, "cutoff": self.cutoff}

    def matrix(self, pixels: int) -> Tensor:
        """Return (n, n) float64."""
        distances = torch.arange(-self.radius, self.radius + 1)
        kernel = torch.softmax(-(distances.double() / self.std).square() / 2, dim=0)
        place = (torch.arange(pixels)[:, None] + distances) % (2 * pixels)
        mirrored = torch.minimum(place, 2 * pixels - 1 - place)
        return torch.zeros(pixels, pixels, dtype=torch.float64).scatter_add(1, mirrored, kernel.expand(pixels, -1))

    def image_pixels(self, measured: int) -> int:
        """Return the same number."""
        return measured


class SuperResolution(SeparableFamily):
    """Means over factor x factor pixels: A A^T = I / factor^2.

    Args:
        factor: the ratio of the sizes of image and measurement.

    Raises:
        ValueError: the factor is not a whole number of at least 2.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        require_whole("factor", factor, 2)
        self.factor = factor

    def __repr__(self) -> str:
        return f"SuperResolution(factor={self.factor})"

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the pixels, as plain values."""
        return {"kind": "super_resolution", "factor": self.factor}

    def matrix(self, pixels: int) -> Tensor:
        """Return (n / factor, n) float64; raises ``ValueError`` unless the factor divides n."""
        if pixels % self.factor:
            raise ValueError(
                f"an image of {pixels} pixels in a row or column has no means over {self.factor}; choose a factor that "
                "divides its height and width"
            )
        blocks = torch.eye(pixels // self.factor, dtype=torch.float64)
        return blocks.repeat_interleave(self.factor, dim=1) / self.factor

    def image_pixels(self, measured: int) -> int:
        """Return ``factor`` times the number."""
        return measured * self.factor
