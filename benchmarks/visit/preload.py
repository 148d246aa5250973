# SPDX-License-Identifier: Apache-2.0
"""What the processes of the visit are forked from: imports that take seconds, and nothing that touches a device."""

import contextlib

with contextlib.suppress(Exception):  # what fails here fails again, with its message, in the item that needs it
    import scipy.integrate
    import scoresde_fast.kernels.group_norm_silu
    import torch._dynamo
    import triton.backends.nvidia.compiler

    import scoresde_fast
    import scoresde_fast.bench.variants

    # Before PyTorch's compiler names another ptxas, whose version is part of the key of what was compiled ahead.
    triton.backends.nvidia.compiler.get_ptxas_version(90)

    __all__ = ["scipy", "scoresde_fast", "torch", "triton"]
