# SPDX-License-Identifier: Apache-2.0
"""Registers of a run of which some samples change."""

from __future__ import annotations

import torch
from torch import Tensor


def replace_where(register: Tensor, chosen: Tensor, value: Tensor) -> None:
    """Put ``value`` (B, ...) into ``register`` (B, ...), in place, in the samples ``chosen`` (B,)."""
    register.copy_(torch.where(chosen.view(-1, *[1] * (register.ndim - 1)), value, register))
