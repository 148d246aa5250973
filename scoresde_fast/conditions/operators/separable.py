# SPDX-License-Identifier: Apache-2.0
"""Separable operators A x = R x C^T: general, Gaussian blur and super-resolution."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.conditions.operators.linear import DeviceConstants
from scoresde_fast.errors import require_integer

CUTOFF = 1e-4
"""Singular values below this fraction of the largest count as 0, so float32 rounding (6e-8) grows to at most 6e-4."""
MAX_CUTOFF = 1e-3
"""Larger cutoffs regularise rather than invert; use a ridge to handle noise."""


class Separable:
    """The operator R x C^T on each channel x.

    The singular values of A are the products of those of R and C.  They are computed once, in float64 on the host.
    The inverses drop a singular value s if s^2 + ridge <= (cutoff s_max)^2, where s_max is the largest.  A ridge above
    that bound keeps them all.

    Args:
        rows: R, (H', H).
        columns: C, (W', W).
        cutoff: relative to the largest singular value s_max.

    Raises:
        ValueError: R or C is not a matrix of finite numbers, or the cutoff is not in (0, 1e-3].
    """

    def __init__(self, rows: Tensor, columns: Tensor, cutoff: float = CUTOFF) -> None:
        for name, matrix in (("rows", rows), ("columns", columns)):
            if matrix.ndim != 2 or 0 in matrix.shape or not matrix.isfinite().all():
                raise ValueError(
                    f"{name} has shape {tuple(matrix.shape)}; it must be a matrix of finite numbers, with one row per "
                    "measured pixel and one column per image pixel"
                )
        _require_cutoff(cutoff)
        self.cutoff = cutoff
        self._matrices = DeviceConstants(rows.double(), columns.double())
        rows, columns = self._matrices.tensors
        self.measured_size = (rows.shape[0], columns.shape[0])
        self.image_size = (rows.shape[1], columns.shape[1])
        u_r, s_r, vt_r = torch.linalg.svd(rows, full_matrices=False)
        u_c, s_c, vt_c = torch.linalg.svd(columns, full_matrices=False)
        singular = s_r[:, None] * s_c
        self._floor = (cutoff * float(singular.max())) ** 2
        self._factors = DeviceConstants(u_r.mT, u_c, singular, vt_r.mT, vt_c)

    def __repr__(self) -> str:
        sizes = [f"{height} x {width}" for height, width in (self.image_size, self.measured_size)]
        return f"{type(self).__name__}({' to '.join(sizes)})"

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""
        return {"kind": "separable", "sha256": self._matrices.sha256(), "cutoff": self.cutoff}

    def measured_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Return (C, H', W') for images (C, H, W); raise ``ValueError`` for another size."""
        if tuple(image_shape[-2:]) != self.image_size:
            height, width = self.image_size
            raise ValueError(
                f"the images have shape {tuple(image_shape)}; this operator takes {height} x {width} pixels"
            )
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
        ut_r, u_c, singular, v_r, vt_c = self._factors.like(measured)
        squares = singular.square() + ridge
        gains = singular / torch.where(squares > self._floor, squares, torch.inf)  # s / inf drops s
        return v_r @ (gains * (ut_r @ measured @ u_c)) @ vt_c


def _require_cutoff(cutoff: float) -> None:
    if not 0 < cutoff <= MAX_CUTOFF:
        raise ValueError(
            f"cutoff is {cutoff!r}; it must be above 0 and at most {MAX_CUTOFF}, as a fraction of the largest "
            "singular value; to handle noise, set the noise standard deviation of the guidance instead"
        )


def _require_size(name: str, tensor: Tensor, size: tuple[int, int]) -> None:
    if tuple(tensor.shape[-2:]) != size:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; this operator takes (B, C, {size[0]}, {size[1]})")


class SeparableFamily(ABC):
    """Separable operators of any image size, built on first use and cached per size."""

    cutoff = CUTOFF

    def __init__(self) -> None:
        self._cache: dict[tuple[int, ...], Separable] = {}

    @abstractmethod
    def matrix(self, pixels: int) -> Tensor:
        """Return the float64 matrix (n', n) for an axis of n ``pixels``; raise ``ValueError`` if n is unsupported."""

    @abstractmethod
    def image_pixels(self, measured: int) -> int:
        """Return the image size n for the ``measured`` size n'."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""

    def measured_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Return (C, H', W') for images (C, H, W); raise ``ValueError`` for an unsupported size."""
        return self._for_images(image_shape[-2:]).measured_shape(image_shape)

    def apply(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H', W')."""
        return self._for_images(images.shape[-2:]).apply(images)

    def adjoint(self, measured: Tensor) -> Tensor:
        """Map (B, C, H', W') to (B, C, H, W)."""
        return self._for_measurement(measured).adjoint(measured)

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        """Map (B, C, H', W') to (B, C, H, W)."""
        return self._for_measurement(measured).pseudo_inverse(measured)

    def ridge_inverse(self, measured: Tensor, ridge: Tensor) -> Tensor:
        """Map (B, C, H', W') to (B, C, H, W); see `scoresde_fast.conditions.operators.ridge_inverse`."""
        return self._for_measurement(measured).ridge_inverse(measured, ridge)

    def _for_measurement(self, measured: Tensor) -> Separable:
        return self._for_images([self.image_pixels(pixels) for pixels in measured.shape[-2:]])

    def _for_images(self, size: Sequence[int]) -> Separable:
        operator = self._cache.get(key := tuple(size))
        if operator is None:
            rows, columns = (self.matrix(pixels) for pixels in key)
            operator = self._cache.setdefault(key, Separable(rows, columns, self.cutoff))
        return operator


class Blur(SeparableFamily):
    """Gaussian blur with symmetric padding (edge pixel repeated, `numpy.pad` mode "symmetric").

    The kernel is exp(-d^2 / (2 std^2)) at the distances d = -radius .. radius, scaled to sum to 1.

    Args:
        std: standard deviation of the kernel, in pixels.
        radius: radius of the kernel, in pixels; None: 4 std, rounded, but at least 1.
        cutoff: as in `Separable`: frequencies attenuated below this fraction are not restored.

    Raises:
        ValueError: ``std`` is not positive and finite, ``radius`` is not an integer of at least 1, or ``cutoff`` is not
            in (0, 1e-3].
    """

    def __init__(self, std: float, radius: int | None = None, cutoff: float = CUTOFF) -> None:
        super().__init__()
        if not 0 < std < math.inf:
            raise ValueError(f"std is {std!r}; it must be a finite number of pixels, greater than 0")
        self.std = float(std)
        self.radius = max(1, int(4 * std + 0.5)) if radius is None else radius
        require_integer("radius", self.radius, 1)
        _require_cutoff(cutoff)
        self.cutoff = cutoff

    def __repr__(self) -> str:
        return f"Blur(std={self.std:g}, radius={self.radius})"

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""
        return {"kind": "blur", "std": self.std, "radius": self.radius, "cutoff": self.cutoff}

    def matrix(self, pixels: int) -> Tensor:
        """Return the float64 matrix (n, n)."""
        distances = torch.arange(-self.radius, self.radius + 1, device="cpu")
        kernel = torch.softmax(-(distances.double() / self.std).square() / 2, dim=0)
        position = (torch.arange(pixels, device="cpu")[:, None] + distances) % (
            2 * pixels
        )  # the padding repeats every 2 n
        mirrored = torch.minimum(position, 2 * pixels - 1 - position)
        return torch.zeros(pixels, pixels, dtype=torch.float64, device="cpu").scatter_add(
            1, mirrored, kernel.expand(pixels, -1)
        )

    def image_pixels(self, measured: int) -> int:
        """Return ``measured``: a blur keeps the size."""
        return measured


class SuperResolution(SeparableFamily):
    """Downsampling by average pooling over factor x factor pixels; A A^T = I / factor^2.

    Args:
        factor: size of the image over size of the measurement.

    Raises:
        ValueError: ``factor`` is not an integer of at least 2.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        require_integer("factor", factor, 2)
        self.factor = factor

    def __repr__(self) -> str:
        return f"SuperResolution(factor={self.factor})"

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""
        return {"kind": "super_resolution", "factor": self.factor}

    def matrix(self, pixels: int) -> Tensor:
        """Return the float64 matrix (n / factor, n); raise ``ValueError`` unless the factor divides n."""
        if pixels % self.factor:
            raise ValueError(
                f"image side {pixels} is not divisible by factor {self.factor}; choose a factor that divides height "
                "and width"
            )
        blocks = torch.eye(pixels // self.factor, dtype=torch.float64, device="cpu")
        return blocks.repeat_interleave(self.factor, dim=1) / self.factor

    def image_pixels(self, measured: int) -> int:
        """Return ``factor`` times the measured size."""
        return measured * self.factor
