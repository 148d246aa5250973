# SPDX-License-Identifier: Apache-2.0
"""Whether a call must be recorded for a derivative; one that need not goes straight to its kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def needs_derivatives(*tensors: Tensor | None) -> bool:
    """Whether an operation on these tensors may be asked for a gradient or a tangent."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    # A compiled graph enters torch.func's levels without a word to `forward_ad`.
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
