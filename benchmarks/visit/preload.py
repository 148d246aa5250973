# SPDX-License-Identifier: Apache-2.0
"""Imports for the server from which the visit's processes fork: they take seconds and touch no device."""

import contextlib

with contextlib.suppress(Exception):  # a failure repeats, with its message, in the item that needs the import
    import scipy.integrate
    import scoresde_fast.kernels.group_norm_silu
    import torch._dynamo
    import triton.backends.nvidia.compiler

    import scoresde_fast
    import scoresde_fast.bench.variants

    # Before PyTorch's compiler names another ptxas: its version is part of the key of kernels compiled ahead.
    triton.backends.nvidia.compiler.get_ptxas_version(90)

    __all__ = ["scipy", "scoresde_fast", "torch", "triton"]
