# SPDX-License-Identifier: Apache-2.0
"""Operations: schema, PyTorch reference, fake and faster backends of each; the only place that knows backends."""

from scoresde_fast.ops import normal
from scoresde_fast.ops.backends import BACKENDS, Operation, operations

__all__ = ["BACKENDS", "Operation", "normal", "operations"]
