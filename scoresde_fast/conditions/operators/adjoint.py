# SPDX-License-Identifier: Apache-2.0
"""Whether an operator is what guidance takes it for: linear, with its adjoint and its pseudo-inverse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde_fast.conditions.operators.linear import LinearOperator, ridge_inverse

ADJOINT_TOLERANCE = 1e-4
"""How far, relative to them, the two sides of the dot test may be apart, and the two of linearity."""
INVERSE_TOLERANCE = 5e-2
"""The same of the inverses, which enlarge rounding and may leave out the least singular values."""


def require_adjoint(
    operator: LinearOperator,
    image_shape: Sequence[int],
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Test an operator on two images of random numbers, always the same.

    `apply` is to be linear, and <A x, y> = <x, A^T y>, to 1e-4; A A^+ A x = A x, with A^+ A x orthogonal to what is
    left of x, and where the operator has a ridge inverse z of y, A^T (y - A z) = ridge z, to 5e-2.

    Args:
        image_shape: (C, H, W).
        device, dtype: of the images.

    Raises:
        ValueError: a method is missing, gives another shape or dtype, or is not what it is to be.
    """
    if missing := [name for name in ("apply", "adjoint", "pseudo_inverse") if not hasattr(operator, name)]:
        raise ValueError(f"operator {operator!r} has no method {missing[0]!r}; see LinearOperator for what it must do")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *image_shape, generator=generator, dtype=torch.float64).to(device, dtype)
    with torch.no_grad():
        seen = _checked("apply", operator.apply(images), images)
        _require_linear(operator, images, seen)
        # Random numbers alone would make both sides a small remainder of large sums, which hides mistakes.
        noise = torch.randn(seen.shape, generator=generator, dtype=torch.float64).to(device, dtype)
        measured = _unit(seen) + _unit(noise)
        back = _checked("adjoint", operator.adjoint(measured), images, images.shape)
        _require_dots(_dots(seen, measured), _dots(images, back))
        found = _checked("pseudo_inverse", operator.pseudo_inverse(seen), images, images.shape)
        _require_pseudo_inverse(images, seen, found, operator.apply(found))
        if hasattr(operator, "ridge_inverse"):
            # As large as the squares of the singular values are.
            ridge = _dots(seen, seen).sum() / _dots(images, images).sum()
            ridge = torch.where(ridge > 0, ridge, 1).to(dtype)
            found = _checked("ridge_inverse", ridge_inverse(operator, measured, ridge), images, images.shape)
            _require_ridge(operator.adjoint(measured - operator.apply(found)), ridge * found, back)


def _require_linear(operator: LinearOperator, images: Tensor, seen: Tensor) -> None:
    """A (x - 2 x') = A x - 2 A x', where the weights add up to another number than 1."""
    apart = operator.apply(images[:1] - 2 * images[1:]) - (seen[:1] - 2 * seen[1:])
    size = seen.abs().max()
    if not apart.abs().max() <= ADJOINT_TOLERANCE * size:
        raise ValueError(
            f"apply is not linear: A (x - 2 y) and A x - 2 A y are {apart.abs().max():.3g} apart, where A x has "
            f"numbers up to {size:.3g}; what it adds to every image must be left out, and taken from what was measured"
        )


def _require_dots(ours: Tensor, theirs: Tensor) -> None:
    """<A x, y> and <x, A^T y>, (2,) each."""
    apart = (ours - theirs).abs()
    if not (apart <= ADJOINT_TOLERANCE * torch.maximum(ours.abs(), theirs.abs())).all():
        worst = int(apart.argmax())
        raise ValueError(
            f"adjoint is not the adjoint of apply: <A x, y> is {ours[worst]:.6g} and <x, A^T y> {theirs[worst]:.6g}, "
            "which must be equal for all x and y; torch.func.vjp(apply, images)[1](measured)[0] is the adjoint of any "
            "linear apply"
        )


def _require_pseudo_inverse(images: Tensor, seen: Tensor, found: Tensor, again: Tensor) -> None:
    """What A^+ makes of A x, which is to be measured as A x, and no larger than it must be."""
    apart, size = (again - seen).norm(), seen.norm()
    if not apart <= INVERSE_TOLERANCE * size:
        raise ValueError(
            f"pseudo_inverse is not that of apply: A A^+ A x is {apart:.3g} away from A x, whose norm is {size:.3g}; "
            "they must be equal for all x"
        )
    ours, theirs = _dots(images, found).sum(), _dots(found, found).sum()
    if not (ours - theirs).abs() <= INVERSE_TOLERANCE * torch.maximum(ours.abs(), theirs):
        raise ValueError(
            f"pseudo_inverse is not that of Moore and Penrose: <x, A^+ A x> is {ours:.6g} and |A^+ A x|^2 "
            f"{theirs:.6g}, which must be equal for all x; take from it the part that apply makes 0 of"
        )


def _require_ridge(gradient: Tensor, image: Tensor, back: Tensor) -> None:
    """A^T (y - A z) and ridge z, where z is the ridge inverse of y."""
    apart, size = (gradient - image).norm(), back.norm()
    if not apart <= INVERSE_TOLERANCE * size:
        raise ValueError(
            f"ridge_inverse is not A^T (A A^T + ridge I)^-1 y: of its z, A^T (y - A z) and ridge z are {apart:.3g} "
            f"apart, where A^T y has the norm {size:.3g}; they must be equal, or leave the method out"
        )


def _checked(name: str, made: object, images: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """What a method has made of a batch of images or measurements.

    Raises:
        ValueError: it is no tensor like ``images``, or has another shape.
    """
    if not isinstance(made, Tensor) or made.ndim < 2 or len(made) != len(images):
        given = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"
        raise ValueError(f"{name} of a batch of {len(images)} gives {given}; it must be ({len(images)}, ...)")
    if shape is not None and made.shape != shape:
        raise ValueError(f"{name} gives shape {tuple(made.shape)}; it must give back images, {tuple(shape)}")
    if (made.dtype, made.device) != (images.dtype, images.device):
        raise ValueError(
            f"{name} gives {made.dtype} on {made.device} of {images.dtype} on {images.device}; it must keep both"
        )
    return made


def _unit(batch: Tensor) -> Tensor:
    """Each sample with the norm 1, or 0."""
    norms = batch.flatten(1).norm(dim=1).view(-1, *(1,) * (batch.ndim - 1))
    return batch / torch.where(norms > 0, norms, 1)


def _dots(one: Tensor, other: Tensor) -> Tensor:
    """(B,) float64: the sum of products of each sample."""
    return (one.double() * other.double()).flatten(1).sum(1)
