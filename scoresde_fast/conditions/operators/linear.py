# SPDX-License-Identifier: Apache-2.0
"""The interface of linear operators, their constants, their regularised inverse, and a test of their methods."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

CONJUGATE_GRADIENT_STEPS = 30
ADJOINT_TOLERANCE = 1e-4
"""Relative tolerance of the linearity test and of the adjoint test."""
INVERSE_TOLERANCE = 5e-2
"""Relative tolerance of the tests of inverses, which amplify rounding and may drop the smallest singular values."""


class LinearOperator(Protocol):
    """A linear measurement A of images.

    Sampling needs only these methods; `require_adjoint` tests them.  They run in a captured loop, so they must not read
    tensor values on the host, and must move constants to the device in their first call, as `DeviceConstants` does.

    A class may also have ``ridge_inverse(measured, ridge)``, the closed form of the function `ridge_inverse`, and
    ``describe()``, which returns the settings as JSON values; without it, manifests have only the name of the class.
    Operators for the command line also need ``measured_shape(image_shape)``, the shape of an image's measurement.

    An operator that differs between K measurements, such as `Mask`, also has ``parameters``, a tuple of tensors
    (K, ...), and ``for_batch(*rows)``, which returns the operator for a batch given its rows of the parameters.
    """

    def apply(self, images: Tensor) -> Tensor:
        """Return A x: images (B, C, H, W) to measurements (B, ...)."""

    def adjoint(self, measured: Tensor) -> Tensor:
        """Return A^T y: measurements (B, ...) to images (B, C, H, W)."""

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        """Return A^+ y, with the Moore-Penrose inverse A^+: the least-squares solution of the smallest norm."""


class DeviceConstants:
    """Host tensors, and a copy for each device and dtype, made when `like` first needs it.

    Threads that need it at the same time get the same copy.
    """

    def __init__(self, *tensors: Tensor) -> None:
        # Autograd cannot save inference tensors.
        with torch.inference_mode(False):
            self.tensors = tuple(tensor.detach().cpu().clone() for tensor in tensors)
        self._copies: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def __reduce__(self) -> tuple[type[DeviceConstants], tuple[Tensor, ...]]:
        """Pickle without the copies, which belong to this process."""
        return DeviceConstants, self.tensors

    def like(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors on the device of ``tensor``, floating-point ones in its dtype."""
        key = tensor.device, tensor.dtype
        copies = self._copies.get(key)
        if copies is None:
            with torch.inference_mode(False):
                copies = tuple(
                    host.to(tensor.device, tensor.dtype if host.is_floating_point() else None) for host in self.tensors
                )
            copies = self._copies.setdefault(key, copies)
        return copies

    def sha256(self) -> str:
        """Return a hash of the tensors, their shapes and dtypes."""
        digest = hashlib.sha256()
        for tensor in self.tensors:
            digest.update(repr((str(tensor.dtype), tuple(tensor.shape))).encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


def parameters_of(operator: LinearOperator) -> tuple[Tensor, ...]:
    """Return the operator's parameters (K, ...); empty if it is the same for all measurements."""
    parameters: tuple[Tensor, ...] = getattr(operator, "parameters", ())
    return parameters


def operator_for_batch(operator: LinearOperator, rows: Sequence[Tensor]) -> LinearOperator:
    """Return the operator for a batch, given its ``rows`` (B, ...) of the parameters; without rows, ``operator``."""
    return operator.for_batch(*rows) if rows else operator  # type: ignore[attr-defined]


def ridge_inverse(operator: LinearOperator, measured: Tensor, ridge: Tensor) -> Tensor:
    """Return A^T (A A^T + ridge I)^-1 y: images (B, C, H, W) of measurements (B, ...).

    Uses the operator's own closed form if it has one, otherwise `conjugate_gradients`.

    Args:
        ridge: non-negative, 0-dim or per sample (B, 1, ...); 0 gives the pseudo-inverse.
    """
    closed_form = getattr(operator, "ridge_inverse", None)
    return conjugate_gradients(operator, measured, ridge) if closed_form is None else closed_form(measured, ridge)


def conjugate_gradients(
    operator: LinearOperator, measured: Tensor, ridge: Tensor, steps: int = CONJUGATE_GRADIENT_STEPS
) -> Tensor:
    """Return `ridge_inverse` by conjugate gradients through `apply` and `adjoint` (CGLS, Bjorck 1996, 7.4).

    It solves (A^T A + ridge I) x = A^T y: the solution is the same, and exists for every y even if ridge is 0.  The
    norm (|A e|^2 + ridge |e|^2)^(1/2) of the error e falls by a factor of at least
    ((sqrt(k) + 1) / (sqrt(k) - 1))^steps / 2, where k = (s_max^2 + ridge) / (s_min^2 + ridge) with the largest and the
    smallest nonzero singular value of A.  In 30 steps it falls to 6e-9 for k = 10, 3e-5 for k = 30, 5e-3 for k = 100.
    """
    ridge = ridge.reshape(-1)
    gradient = direction = operator.adjoint(measured)
    images, residual = torch.zeros_like(gradient), measured
    squares = _squared_norms(gradient)
    # Smaller gradients are rounding errors, and steps along them may diverge.
    least = (8 * torch.finfo(measured.dtype).eps) ** 2 * squares
    for _ in range(steps):
        measured_direction = operator.apply(direction)
        curvature = _squared_norms(measured_direction) + ridge * _squared_norms(direction)
        length = squares / torch.where((squares > least) & (curvature > 0), curvature, torch.inf)
        images = images + _broadcastable(length, images) * direction
        residual = residual - _broadcastable(length, residual) * measured_direction
        gradient = operator.adjoint(residual) - _broadcastable(ridge, images) * images
        previous, squares = squares, _squared_norms(gradient)
        ratio = squares / torch.where(previous > 0, previous, torch.inf)
        direction = gradient + _broadcastable(ratio, images) * direction
    return images


def _squared_norms(tensor: Tensor) -> Tensor:
    """Return the squared norm of each sample, (B,)."""
    return tensor.flatten(1).square().sum(1)


def _broadcastable(values: Tensor, tensor: Tensor) -> Tensor:
    """Return values (B,) as (B, 1, ...), to multiply ``tensor`` (B, ...)."""
    return values.view(-1, *(1,) * (tensor.ndim - 1))


def require_adjoint(
    operator: LinearOperator,
    image_shape: Sequence[int],
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Raise ``ValueError`` unless an operator passes tests on two fixed random images x of ``image_shape`` (C, H, W).

    With the relative tolerance 1e-4, `apply` must be linear and <A x, y> = <x, A^T y>.  With the tolerance 5e-2,
    A A^+ A x = A x, A^+ A x must be orthogonal to x - A^+ A x, and a closed-form ridge inverse z of y must satisfy
    A^T (y - A z) = ridge z.

    Raises:
        ValueError: a method is missing, returns another shape or dtype, or fails a test.
    """
    if missing := [name for name in ("apply", "adjoint", "pseudo_inverse") if not hasattr(operator, name)]:
        raise ValueError(f"operator {operator!r} has no method {missing[0]!r}; see LinearOperator for its interface")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *image_shape, generator=generator, dtype=torch.float64, device="cpu").to(device, dtype)
    with torch.no_grad():
        applied = _checked("apply", operator.apply(images), images)
        _require_linear(operator, images, applied)
        # For random y, <A x, y> is a small sum of large terms, which hides mistakes: add the direction of A x to y.
        noise = torch.randn(applied.shape, generator=generator, dtype=torch.float64, device="cpu").to(device, dtype)
        measured = _unit(applied) + _unit(noise)
        adjoint = _checked("adjoint", operator.adjoint(measured), images, images.shape)
        _require_equal_products(_dots(applied, measured), _dots(images, adjoint))
        inverse = _checked("pseudo_inverse", operator.pseudo_inverse(applied), images, images.shape)
        _require_pseudo_inverse(images, applied, inverse, operator.apply(inverse))
        if hasattr(operator, "ridge_inverse"):
            # A ridge of the size of the squared singular values.
            ridge = _dots(applied, applied).sum() / _dots(images, images).sum()
            ridge = torch.where(ridge > 0, ridge, 1).to(dtype)
            inverse = _checked("ridge_inverse", ridge_inverse(operator, measured, ridge), images, images.shape)
            _require_ridge_inverse(operator.adjoint(measured - operator.apply(inverse)), ridge * inverse, adjoint)


def _require_linear(operator: LinearOperator, images: Tensor, applied: Tensor) -> None:
    # The weights 1 and -2 do not sum to 1, so that a constant term is detected.
    difference = operator.apply(images[:1] - 2 * images[1:]) - (applied[:1] - 2 * applied[1:])
    size = applied.abs().max()
    if not difference.abs().max() <= ADJOINT_TOLERANCE * size:
        raise ValueError(
            f"apply is not linear: A (x - 2 y) and A x - 2 A y differ by {difference.abs().max():.3g}, for values of "
            f"A x up to {size:.3g}; remove any constant term, and subtract it from the measurements"
        )


def _require_equal_products(forward: Tensor, backward: Tensor) -> None:
    """Raise ``ValueError`` unless <A x, y> and <x, A^T y>, (2,) each, are equal."""
    difference = (forward - backward).abs()
    if not (difference <= ADJOINT_TOLERANCE * torch.maximum(forward.abs(), backward.abs())).all():
        worst = int(difference.argmax())
        raise ValueError(
            f"adjoint is not the adjoint of apply: <A x, y> is {forward[worst]:.6g} and <x, A^T y> is "
            f"{backward[worst]:.6g}; they must be equal for all x and y; the adjoint of any linear apply is "
            "torch.func.vjp(apply, images)[1](measured)[0]"
        )


def _require_pseudo_inverse(images: Tensor, applied: Tensor, inverse: Tensor, reapplied: Tensor) -> None:
    """Raise ``ValueError`` unless A A^+ A x is A x, and A^+ A x is orthogonal to x - A^+ A x."""
    difference, size = (reapplied - applied).norm(), applied.norm()
    if not difference <= INVERSE_TOLERANCE * size:
        raise ValueError(
            f"pseudo_inverse does not invert apply: A A^+ A x and A x differ by {difference:.3g}, for a norm of A x "
            f"of {size:.3g}; they must be equal for all x"
        )
    projected, square = _dots(images, inverse).sum(), _dots(inverse, inverse).sum()
    if not (projected - square).abs() <= INVERSE_TOLERANCE * torch.maximum(projected.abs(), square):
        raise ValueError(
            f"pseudo_inverse is not the Moore-Penrose inverse: <x, A^+ A x> is {projected:.6g} and |A^+ A x|^2 is "
            f"{square:.6g}; they must be equal for all x: remove the component in the null space of apply"
        )


def _require_ridge_inverse(gradient: Tensor, scaled_inverse: Tensor, adjoint: Tensor) -> None:
    """Raise ``ValueError`` unless A^T (y - A z) and ridge z are equal, where z is the ridge inverse of y."""
    difference, size = (gradient - scaled_inverse).norm(), adjoint.norm()
    if not difference <= INVERSE_TOLERANCE * size:
        raise ValueError(
            f"ridge_inverse is not A^T (A A^T + ridge I)^-1 y: if z is its result, A^T (y - A z) and ridge z differ by "
            f"{difference:.3g}, for a norm of A^T y of {size:.3g}; make them equal, or remove the method"
        )


def _checked(name: str, result: object, images: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """Return a method's result for a batch; raise ``ValueError`` for a wrong type, shape, dtype or device."""
    if not isinstance(result, Tensor) or result.ndim < 2 or len(result) != len(images):
        returned = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else f"a {type(result).__name__}"
        raise ValueError(
            f"{name} of a batch of {len(images)} returns {returned}; it must be a tensor ({len(images)}, ...)"
        )
    if shape is not None and result.shape != shape:
        raise ValueError(f"{name} returns shape {tuple(result.shape)}; it must return images, {tuple(shape)}")
    if (result.dtype, result.device) != (images.dtype, images.device):
        raise ValueError(
            f"{name} returns {result.dtype} on {result.device} for {images.dtype} on {images.device}; it must keep both"
        )
    return result


def _unit(batch: Tensor) -> Tensor:
    """Normalise each sample to the norm 1; a zero sample remains zero."""
    return F.normalize(batch.flatten(1)).view_as(batch)


def _dots(left: Tensor, right: Tensor) -> Tensor:
    """Return the inner product of each pair of samples, (B,) float64."""
    return (left.double() * right.double()).flatten(1).sum(1)
