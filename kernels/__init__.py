# SPDX-License-Identifier: Apache-2.0
"""Triton kernels, imported as ``scoresde_fast.kernels``."""

if __name__ != "scoresde_fast.kernels":
    raise ImportError(
        "this directory is `scoresde_fast.kernels`: run from outside the source root, or with `python -P`"
    )
