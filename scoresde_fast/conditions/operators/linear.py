# SPDX-License-Identifier: Apache-2.0
"""What a linear measurement A is, and the regularised inverse of any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

STEPS = 30
"""Conjugate-gradient steps of `ridge_inverse`."""


class LinearOperator(Protocol):
    """A linear measurement A of images.

    A class of one's own needs no more than these methods; `scoresde_fast.conditions.operators.require_adjoint` tests
    them.  It may have ``ridge_inverse(measured, ridge)`` too, A^T (A A^T + ridge I)^-1 y in closed form, with a
    ``ridge`` as in the function `ridge_inverse`.  They run in a captured loop: no value is read on the host, and what
    they need on the device is there after a first call.

    One that is another for each of K measurements has ``parameters`` too, tensors (K, ...), and ``of(*rows)``, the
    operator of a batch with those rows of them; `Mask` is such a one.
    """

    def apply(self, images: Tensor) -> Tensor:
        """A x: images (B, C, H, W) to measurements (B, ...)."""

    def adjoint(self, measured: Tensor) -> Tensor:
        """A^T y: measurements (B, ...) to images (B, C, H, W)."""

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        """A^+ y, the Moore-Penrose inverse: of the images whose measurement is nearest to y, the least."""


def parameters_of(operator: LinearOperator) -> tuple[Tensor, ...]:
    """What the operator has for each of K measurements, (K, ...) each; nothing where it is the same for all."""
    found: tuple[Tensor, ...] = getattr(operator, "parameters", ())
    return found


def operator_of(operator: LinearOperator, rows: Sequence[Tensor]) -> LinearOperator:
    """The operator of a batch with these ``rows`` (B, ...) of its parameters, if it has any."""
    return operator.of(*rows) if rows else operator  # type: ignore[attr-defined]


def ridge_inverse(operator: LinearOperator, measured: Tensor, ridge: Tensor) -> Tensor:
    """A^T (A A^T + ridge I)^-1 y: images (B, C, H, W) of measurements (B, ...).

    This is the operator's own closed form where it has one, else `conjugate_gradients`.

    Args:
        ridge: at least 0, 0-dim or one for each sample, (B, 1, ...); 0 is the pseudo-inverse.
    """
    closed = getattr(operator, "ridge_inverse", None)
    return conjugate_gradients(operator, measured, ridge) if closed is None else closed(measured, ridge)


def conjugate_gradients(operator: LinearOperator, measured: Tensor, ridge: Tensor, steps: int = STEPS) -> Tensor:
    """The same by ``steps`` conjugate-gradient steps through `apply` and `adjoint` alone (CGLS, Bjorck 1996, 7.4).

    The system is (A^T A + ridge I) x = A^T y, whose solution is the same, and which has one for ridge 0 too whatever
    part of y no image has.  Of the error e, (|A e|^2 + ridge |e|^2)^(1/2) falls to at most
    2 ((sqrt(k) - 1) / (sqrt(k) + 1))^steps of what it is for no image, where k = (s^2 + ridge) / (r^2 + ridge), with s
    the largest and r the least singular value of A but 0: in 30 steps to 6e-9 for k = 10, to 3e-5 for k = 30, and to
    5e-3 for k = 100.
    """
    ridge = ridge.reshape(-1)
    gradient = direction = operator.adjoint(measured)
    images, residual = torch.zeros_like(gradient), measured
    squares = _squares(gradient)
    # Below this there is nothing but rounding, and steps along it may go anywhere.
    least = (8 * torch.finfo(measured.dtype).eps) ** 2 * squares
    for _ in range(steps):
        seen = operator.apply(direction)
        curvature = _squares(seen) + ridge * _squares(direction)
        length = squares / torch.where((squares > least) & (curvature > 0), curvature, torch.inf)
        images = images + _like(length, images) * direction
        residual = residual - _like(length, residual) * seen
        gradient = operator.adjoint(residual) - _like(ridge, images) * images
        before, squares = squares, _squares(gradient)
        turn = squares / torch.where(before > 0, before, torch.inf)
        direction = gradient + _like(turn, images) * direction
    return images


def _squares(tensor: Tensor) -> Tensor:
    """(B,): the sum of squares of each sample."""
    return tensor.flatten(1).square().sum(1)


def _like(numbers: Tensor, tensor: Tensor) -> Tensor:
    """(B,) as (B, 1, ...), to go with a tensor (B, ...)."""
    return numbers.view(-1, *(1,) * (tensor.ndim - 1))
