# SPDX-License-Identifier: Apache-2.0
"""Recording a call for its derivatives, and whether it must be: one that need not goes straight to its kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction


class SingleLevelFunction(_SingleLevelFunction):
    """An autograd function for the dispatcher's autograd key, where one level of torch.func has been entered already.

    ``torch.autograd.Function`` would enter it again, in Python code that takes longer than the operation on
    a small image.
    """

    @classmethod
    def record(cls, *arguments: Any) -> Any:
        """``forward`` of the arguments, recorded for its derivatives."""
        with enable_single_level_autograd_function():
            return cls.apply(*arguments)  # type: ignore[attr-defined]


def needs_derivatives(*tensors: Tensor | None) -> bool:
    """Whether an operation on these tensors may be asked for a gradient or a tangent."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    # A compiled graph enters torch.func's levels without a word to `forward_ad`.
    return may_have_tangents() or torch._C._are_functorch_transforms_active()


def goes_through_dispatcher() -> bool:
    """Whether a compiler or a transform of torch.func is at work; else a call can be recorded without the dispatcher,
    whose layers of Python take longer than a small image."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def below_autograd(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The operation below the dispatcher's autograd key, for the forward of an autograd function."""

    def call(*arguments: Any) -> Any:
        # A function switches both modes off; the levels of torch.func below this one need them.
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), torch._C._AutoDispatchBelowAutograd():
            return operation(*arguments)

    return call


def may_have_tangents() -> bool:
    """Whether dual numbers are about: a look that costs nothing."""
    return forward_ad._current_level >= 0


def version(tensor: Tensor) -> int:
    """How often a tensor was written in place; -1 of one made in inference mode, which counts nothing."""
    return -1 if tensor.is_inference() else tensor._version
