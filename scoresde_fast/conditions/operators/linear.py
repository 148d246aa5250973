# SPDX-License-Identifier: Apache-2.0
"""The interface of a linear operator A, its regularised inverse, and a test of its methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

CONJUGATE_GRADIENT_STEPS = 30
ADJOINT_TOLERANCE = 1e-4
"""Relative difference allowed between the two sides of the dot-product test, and of the test of linearity."""
INVERSE_TOLERANCE = 5e-2
"""The same for the inverses, which amplify rounding and may leave out the smallest singular values."""


class LinearOperator(Protocol):
    """A linear measurement A of images.

    A user's class needs only these methods; `require_adjoint` tests them.  It may add ``ridge_inverse(measured,
    ridge)``, the closed form of the function `ridge_inverse`.  The methods run in a captured loop: they read no value
    on the host, and put what they need on the device in their first call.

    An operator that differs between K measurements, such as `Mask`, has ``parameters``, tensors (K, ...), and
    ``of(*rows)``, which returns the operator of a batch with these rows of the parameters.
    """

    def apply(self, images: Tensor) -> Tensor:
        """Return A x: images (B, C, H, W) to measurements (B, ...)."""

    def adjoint(self, measured: Tensor) -> Tensor:
        """Return A^T y: measurements (B, ...) to images (B, C, H, W)."""

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        """Return A^+ y, the Moore-Penrose inverse: the smallest of the images whose measurements are nearest to y."""


def parameters_of(operator: LinearOperator) -> tuple[Tensor, ...]:
    """Return the operator's parameters for each of K measurements, (K, ...); none if it is the same for all."""
    found: tuple[Tensor, ...] = getattr(operator, "parameters", ())
    return found


def operator_of(operator: LinearOperator, rows: Sequence[Tensor]) -> LinearOperator:
    """Return the operator of a batch with these ``rows`` (B, ...) of its parameters, if it has any."""
    return operator.of(*rows) if rows else operator  # type: ignore[attr-defined]


def ridge_inverse(operator: LinearOperator, measured: Tensor, ridge: Tensor) -> Tensor:
    """Return A^T (A A^T + ridge I)^-1 y: images (B, C, H, W) of measurements (B, ...).

    Uses the operator's own closed form if it has one, else `conjugate_gradients`.

    Args:
        ridge: at least 0, 0-dim or one for each sample, (B, 1, ...); 0 is the pseudo-inverse.
    """
    closed = getattr(operator, "ridge_inverse", None)
    return conjugate_gradients(operator, measured, ridge) if closed is None else closed(measured, ridge)


def conjugate_gradients(
    operator: LinearOperator, measured: Tensor, ridge: Tensor, steps: int = CONJUGATE_GRADIENT_STEPS
) -> Tensor:
    """Return `ridge_inverse` by conjugate gradients through `apply` and `adjoint` (CGLS, Bjorck 1996, 7.4).

    It solves (A^T A + ridge I) x = A^T y, which has the same solution, and for ridge 0 has one for every y.  The error
    e, as (|A e|^2 + ridge |e|^2)^(1/2), falls to at most 2 ((sqrt(k) - 1) / (sqrt(k) + 1))^steps of that of x = 0,
    where k = (s^2 + ridge) / (r^2 + ridge), and s and r are the largest and the smallest nonzero singular value of A:
    in 30 steps to 6e-9 for k = 10, to 3e-5 for k = 30, and to 5e-3 for k = 100.
    """
    ridge = ridge.reshape(-1)
    gradient = direction = operator.adjoint(measured)
    images, residual = torch.zeros_like(gradient), measured
    squares = _squares(gradient)
    # Below this the gradient is rounding, and steps along it may go anywhere.
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
    """Return (B,), the sum of squares of each sample."""
    return tensor.flatten(1).square().sum(1)


def _like(numbers: Tensor, tensor: Tensor) -> Tensor:
    """Return (B,) as (B, 1, ...), to multiply a tensor (B, ...)."""
    return numbers.view(-1, *(1,) * (tensor.ndim - 1))


def require_adjoint(
    operator: LinearOperator,
    image_shape: Sequence[int],
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Test an operator on two fixed random images.

    It tests that `apply` is linear and <A x, y> = <x, A^T y>, to 1e-4; and to 5e-2 that A A^+ A x = A x, that A^+ A x
    is orthogonal to the rest of x, and that a closed ridge inverse z of y fulfils A^T (y - A z) = ridge z.

    Args:
        image_shape: (C, H, W).
        device, dtype: of the images.

    Raises:
        ValueError: a method is missing, returns another shape or dtype, or fails a test.
    """
    if missing := [name for name in ("apply", "adjoint", "pseudo_inverse") if not hasattr(operator, name)]:
        raise ValueError(f"operator {operator!r} has no method {missing[0]!r}; see LinearOperator for its interface")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *image_shape, generator=generator, dtype=torch.float64).to(device, dtype)
    with torch.no_grad():
        seen = _checked("apply", operator.apply(images), images)
        _require_linear(operator, images, seen)
        # With random numbers alone both sides would be a small remainder of large sums, which hides mistakes.
        noise = torch.randn(seen.shape, generator=generator, dtype=torch.float64).to(device, dtype)
        measured = _unit(seen) + _unit(noise)
        back = _checked("adjoint", operator.adjoint(measured), images, images.shape)
        _require_dots(_dots(seen, measured), _dots(images, back))
        found = _checked("pseudo_inverse", operator.pseudo_inverse(seen), images, images.shape)
        _require_pseudo_inverse(images, seen, found, operator.apply(found))
        if hasattr(operator, "ridge_inverse"):
            # A ridge of the size of the squared singular values.
            ridge = _dots(seen, seen).sum() / _dots(images, images).sum()
            ridge = torch.where(ridge > 0, ridge, 1).to(dtype)
            found = _checked("ridge_inverse", ridge_inverse(operator, measured, ridge), images, images.shape)
            _require_ridge(operator.adjoint(measured - operator.apply(found)), ridge * found, back)


def _require_linear(operator: LinearOperator, images: Tensor, seen: Tensor) -> None:
    # The weights do not add up to 1, so that a constant term shows.
    difference = operator.apply(images[:1] - 2 * images[1:]) - (seen[:1] - 2 * seen[1:])
    size = seen.abs().max()
    if not difference.abs().max() <= ADJOINT_TOLERANCE * size:
        raise ValueError(
            f"apply is not linear: A (x - 2 y) and A x - 2 A y differ by {difference.abs().max():.3g}, where A x has "
            f"numbers up to {size:.3g}; leave out any constant term, and subtract it from the measurements"
        )


def _require_dots(forward: Tensor, backward: Tensor) -> None:
    """Compare <A x, y> and <x, A^T y>, (2,) each."""
    difference = (forward - backward).abs()
    if not (difference <= ADJOINT_TOLERANCE * torch.maximum(forward.abs(), backward.abs())).all():
        worst = int(difference.argmax())
        raise ValueError(
            f"adjoint is not the adjoint of apply: <A x, y> is {forward[worst]:.6g} and <x, A^T y> "
            f"{backward[worst]:.6g}, which must be equal for all x and y; the adjoint of any linear apply is "
            "torch.func.vjp(apply, images)[1](measured)[0]"
        )


def _require_pseudo_inverse(images: Tensor, seen: Tensor, found: Tensor, again: Tensor) -> None:
    """Check that ``found``, A^+ A x, is measured as A x and is no larger than needed."""
    difference, size = (again - seen).norm(), seen.norm()
    if not difference <= INVERSE_TOLERANCE * size:
        raise ValueError(
            f"pseudo_inverse is not that of apply: A A^+ A x is {difference:.3g} away from A x, whose norm is "
            f"{size:.3g}; they must be equal for all x"
        )
    projected, square = _dots(images, found).sum(), _dots(found, found).sum()
    if not (projected - square).abs() <= INVERSE_TOLERANCE * torch.maximum(projected.abs(), square):
        raise ValueError(
            f"pseudo_inverse is not the Moore-Penrose inverse: <x, A^+ A x> is {projected:.6g} and |A^+ A x|^2 is "
            f"{square:.6g}, which must be equal for all x; remove the part that apply maps to 0"
        )


def _require_ridge(gradient: Tensor, image: Tensor, back: Tensor) -> None:
    """Compare A^T (y - A z) and ridge z, where z is the ridge inverse of y."""
    difference, size = (gradient - image).norm(), back.norm()
    if not difference <= INVERSE_TOLERANCE * size:
        raise ValueError(
            f"ridge_inverse is not A^T (A A^T + ridge I)^-1 y: for its z, A^T (y - A z) and ridge z differ by "
            f"{difference:.3g}, where A^T y has the norm {size:.3g}; make them equal, or leave the method out"
        )


def _checked(name: str, result: object, images: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """Return a method's result for a batch; raises ``ValueError`` for another type, shape, dtype or device."""
    if not isinstance(result, Tensor) or result.ndim < 2 or len(result) != len(images):
        given = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else f"a {type(result).__name__}"
        raise ValueError(f"{name} of a batch of {len(images)} gives {given}; it must be ({len(images)}, ...)")
    if shape is not None and result.shape != shape:
        raise ValueError(f"{name} gives shape {tuple(result.shape)}; it must return images, {tuple(shape)}")
    if (result.dtype, result.device) != (images.dtype, images.device):
        raise ValueError(
            f"{name} gives {result.dtype} on {result.device} of {images.dtype} on {images.device}; it must keep both"
        )
    return result


def _unit(batch: Tensor) -> Tensor:
    """Scale each sample to the norm 1; zeros stay."""
    norms = batch.flatten(1).norm(dim=1).view(-1, *(1,) * (batch.ndim - 1))
    return batch / torch.where(norms > 0, norms, 1)


def _dots(one: Tensor, other: Tensor) -> Tensor:
    """Return (B,) float64, the inner product of each sample."""
    return (one.double() * other.double()).flatten(1).sum(1)
