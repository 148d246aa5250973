# SPDX-License-Identifier: Apache-2.0
"""Measurements that act on rows and columns apart: A x = R x C^T, inverted by the two singular value decompositions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.conditions.operators.on_devices import OnDevices
from scoresde_fast.conditions.operators.sizes import require_size

CUTOFF = 1e-4
"""Relative to the largest singular value, what counts as 0: rounding of float32, 6e-8, becomes no more than 6e-4."""
MOST = 1e-3
"""The largest cutoff: what leaves out more is no inverse, and to allow for noise is what a ridge does."""


class Separable:
    """R x C^T of each channel x.

    The singular values of A are the products of those of R and C, which are found once, in float64 on the host.
    With s the largest, the inverses leave out the directions of a singular value r with r^2 + ridge <= (cutoff s)^2; a
    larger ridge leaves out nothing.

    Args:
        rows: R, (H', H).
        columns: C, (W', W).
        cutoff: relative to the largest singular value.

    Raises:
        ValueError: one is no matrix of finite numbers, or the cutoff is not in (0, 1e-3].
    """

    def __init__(self, rows: Tensor, columns: Tensor, cutoff: float = CUTOFF) -> None:
        for name, matrix in (("rows", rows), ("columns", columns)):
            if matrix.ndim != 2 or 0 in matrix.shape or not matrix.isfinite().all():
                raise ValueError(
                    f"{name} has shape {tuple(matrix.shape)}; it must be a matrix of finite numbers, with a row for "
                    "each measured pixel and a column for each pixel of the image"
                )
        require_cutoff(cutoff)
        self.cutoff = cutoff
        self._matrices = OnDevices(rows.double(), columns.double())
        rows, columns = self._matrices.tensors
        self.measured_size, self.image_size = zip(rows.shape, columns.shape, strict=True)
        left, values, right = torch.linalg.svd(rows, full_matrices=False)
        below, others, above = torch.linalg.svd(columns, full_matrices=False)
        singular = values[:, None] * others
        self._floor = (cutoff * float(singular.max())) ** 2
        self._basis = OnDevices(left.mT, below, singular, right.mT, above)

    def __repr__(self) -> str:
        (rows, columns), (height, width) = self.image_size, self.measured_size
        return f"{type(self).__name__}({rows} x {columns} to {height} x {width})"

    def describe(self) -> dict[str, Any]:
        """Everything of it that decides the pixels, as plain values."""
        return {"kind": "separable", "sha256": self._matrices.sha256(), "cutoff": self.cutoff}

    def measured_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """(C, H', W') of the measurement of an image (C, H, W).

        Raises:
            ValueError: it is of another size.
        """
        if tuple(image_shape[-2:]) != self.image_size:
            raise ValueError(
                f"the images are {tuple(image_shape)}; this operator is of {self.image_size[0]} x {self.image_size[1]} "
                "pixels"
            )
        return (image_shape[0], *self.measured_size)

    def apply(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H', W')."""
        require_size("images", images, self.image_size)
        rows, columns = self._matrices.like(images)
        return rows @ images @ columns.mT

    def adjoint(self, measured: Tensor) -> Tensor:
        """(B, C, H', W') to (B, C, H, W)."""
        require_size("measured", measured, self.measured_size)
        rows, columns = self._matrices.like(measured)
        return rows.mT @ measured @ columns

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        """(B, C, H', W') to (B, C, H, W)."""
        return self.ridge_inverse(measured, measured.new_zeros(()))

    def ridge_inverse(self, measured: Tensor, ridge: Tensor) -> Tensor:
        """(B, C, H', W') to (B, C, H, W); ``ridge`` as in `scoresde_fast.conditions.operators.ridge_inverse`."""
        require_size("measured", measured, self.measured_size)
        left, below, singular, right, above = self._basis.like(measured)
        squares = singular.square() + ridge
        gains = singular / torch.where(squares > self._floor, squares, torch.inf)
        return right @ (gains * (left @ measured @ below)) @ above


def require_cutoff(cutoff: float) -> None:
    """Raises ``ValueError`` unless ``cutoff`` is above 0 and at most `MOST`."""
    if not 0 < cutoff <= MOST:
        raise ValueError(
            f"cutoff is {cutoff!r}; it must be above 0 and at most {MOST}, relative to the largest singular value: to "
            "allow for noise, say how much there is"
        )


class AnySize(ABC):
    """An operator that is `Separable` by matrices which depend on the size of the image alone.

    They are made when an image of that size comes, and kept.
    """

    cutoff = CUTOFF

    def __init__(self) -> None:
        self._of_size: dict[tuple[int, ...], Separable] = {}

    @abstractmethod
    def matrix(self, pixels: int) -> Tensor:
        """(n', n) float64 for ``pixels`` n in a row or column of the image.

        Raises:
            ValueError: there is none for so many.
        """

    @abstractmethod
    def image_pixels(self, measured: int) -> int:
        """n for n'."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Everything of it that decides the pixels, as plain values."""

    def measured_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """(C, H', W') of the measurement of an image (C, H, W).

        Raises:
            ValueError: it is of a size that the operator does not take.
        """
        return self._separable(image_shape[-2:]).measured_shape(image_shape)

    def apply(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H', W')."""
        return self._separable(images.shape[-2:]).apply(images)

    def adjoint(self, measured: Tensor) -> Tensor:
        """(B, C, H', W') to (B, C, H, W)."""
        return self._of_measured(measured).adjoint(measured)

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        """(B, C, H', W') to (B, C, H, W)."""
        return self._of_measured(measured).pseudo_inverse(measured)

    def ridge_inverse(self, measured: Tensor, ridge: Tensor) -> Tensor:
        """(B, C, H', W') to (B, C, H, W); ``ridge`` as in `scoresde_fast.conditions.operators.ridge_inverse`."""
        return self._of_measured(measured).ridge_inverse(measured, ridge)

    def _of_measured(self, measured: Tensor) -> Separable:
        """The operator of the images that ``measured`` (B, C, H', W') is of."""
        return self._separable([self.image_pixels(pixels) for pixels in measured.shape[-2:]])

    def _separable(self, size: Sequence[int]) -> Separable:
        """The operator of images of that size."""
        found = self._of_size.get(key := tuple(size))
        if found is None:
            rows, columns = (self.matrix(pixels) for pixels in key)
            found = self._of_size.setdefault(key, Separable(rows, columns, self.cutoff))
        return found
