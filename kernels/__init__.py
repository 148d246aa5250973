# SPDX-License-Identifier: Apache-2.0
"""Triton kernels, imported as ``scoresde_fast.kernels``, and the launcher of each operation."""

if __name__ != "scoresde_fast.kernels":
    raise ImportError(
        "this directory is `scoresde_fast.kernels`: run from outside the source root, or with `python -P`"
    )

from importlib import import_module

# Module of an operation's launcher, if its name differs from the operation's.
MODULES = {
    "affine_step_pair": "affine_step",
    "group_norm_silu_backward": "group_norm_silu_gradients",
    "group_norm_silu_tangent": "group_norm_silu_gradients",
    "langevin_norms": "langevin",
    "langevin_step": "langevin",
    "rademacher": "normal",
}


def launcher(operation):
    """Import Triton and return the function that launches an operation's kernels; it takes the schema's arguments."""
    return getattr(import_module(f"scoresde_fast.kernels.{MODULES.get(operation, operation)}"), operation)
