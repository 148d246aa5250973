# SPDX-License-Identifier: Apache-2.0
"""Recording of operations for autograd, and the derivatives of operations that are linear in an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction, once_differentiable

Apply = Callable[[Tensor, Tensor | None, bool], Tensor]
"""``apply(x, residual, biased)``: the operation, with its bias if ``biased``."""
Transpose = Callable[[Tensor], Tensor]
"""Maps the gradient of the output to the gradient of x."""


def needs_derivatives(*tensors: Tensor | None) -> bool:
    """Return whether an operation on these tensors may need a gradient or a tangent."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    # `forward_ad` does not see the levels of torch.func that a compiled graph enters.
    return may_have_tangents() or torch._C._are_functorch_transforms_active()


def may_have_tangents() -> bool:
    """Return whether a level of dual numbers is open; the test costs nothing."""
    return forward_ad._current_level >= 0


def goes_through_dispatcher() -> bool:
    """Return whether a compiler or a torch.func transform is active.

    Otherwise a call can bypass the dispatcher, whose Python layers take longer than the operation on a small image.
    """
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def below_autograd(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls the operation below the dispatcher's autograd key, for an autograd forward."""

    def call(*arguments: Any) -> Any:
        # An autograd function disables both modes; the levels of torch.func below this one need them.
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), torch._C._AutoDispatchBelowAutograd():
            return operation(*arguments)

    return call


def memory_format(x: Tensor) -> torch.memory_format:
    """Return channels_last if the strides allow it; with one channel or one pixel both formats are the same memory."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def version(tensor: Tensor) -> int:
    """Return PyTorch's count of in-place writes to a tensor, or -1 for an inference tensor, which has no count."""
    return -1 if tensor.is_inference() else tensor._version


class SingleLevelFunction(_SingleLevelFunction):
    """An autograd function for the dispatcher's autograd key, where the level of torch.func is already entered.

    ``torch.autograd.Function`` would enter it again, in Python code that is slower than the operation on a small image.
    """

    @classmethod
    def record(cls, *arguments: Any) -> Any:
        """Return ``forward(*arguments)``, recorded for derivatives."""
        with enable_single_level_autograd_function():
            return cls.apply(*arguments)  # type: ignore[attr-defined]


def with_derivatives(
    apply: Apply, transpose: Transpose, x: Tensor, residual: Tensor | None, scale: float = 1.0
) -> Tensor:
    """Return ``apply(x, residual, True)``, recorded for gradients and tangents.

    Except for its bias, the operation is linear in image and residual together, so no image is saved.  The tangent is
    ``apply`` of the tangents without bias.

    Args:
        apply: the operation.
        transpose: its transpose; gets a gradient in the memory format of ``x``.
        x, residual: (B, C, H, W) and (B, K, H', W'); ``residual`` may be None.
        scale: the factor of the residual in ``apply``.
    """
    return _Linear.record(x, residual, apply, transpose, scale)


class _Linear(SingleLevelFunction):
    @staticmethod
    def forward(x: Tensor, residual: Tensor | None, apply: Apply, transpose: Transpose, scale: float) -> Tensor:
        return apply(x, residual, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, ctx.operation, ctx.transpose, ctx.scale = inputs
        ctx.memory_format = memory_format(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        for_image, for_residual, *_ = ctx.needs_input_grad
        image = ctx.transpose(grad.contiguous(memory_format=ctx.memory_format)) if for_image else None
        return image, ctx.scale * grad if for_residual else None, None, None, None

    @staticmethod
    def jvp(ctx: Any, x: Tensor | None, residual: Tensor | None, *_constants: None) -> Tensor:
        if residual is not None:
            residual = residual.contiguous(memory_format=ctx.memory_format)
        if x is None:
            assert residual is not None  # one of them has a tangent
            return residual * ctx.scale
        tangent: Tensor = ctx.operation(x.contiguous(memory_format=ctx.memory_format), residual, False)
        return tangent
