# SPDX-License-Identifier: Apache-2.0
"""Slow imports, made once by the fork server of a GPU visit; they touch no device."""

import contextlib

with contextlib.suppress(Exception):  # an item that needs the import reports the error
    import scipy.integrate
    import scoresde_fast.kernels.group_norm_silu
    import torch._dynamo
    import triton.backends.nvidia.compiler

    import scoresde_fast
    import scoresde_fast.bench.variants

    # PyTorch's compiler sets another ptxas later, whose version would change the keys of precompiled kernels.
    triton.backends.nvidia.compiler.get_ptxas_version(90)

    __all__ = ["scipy", "scoresde_fast", "torch", "triton"]
