# SPDX-License-Identifier: Apache-2.0
"""``langevin``: the corrector's norms, then its step; the noise is made in both and never stored."""

from scoresde_fast.kernels.langevin_norms import langevin_norms
from scoresde_fast.kernels.langevin_step import langevin_step


def langevin(
    state, network_output, sample_ids, coefficients, control, counter, offset, per_sample, run_seed, precise
):  # fmt: skip
    """Launch the kernels of both; arguments as in the schema of ``scoresde_fast.ops.langevin``."""
    row = (sample_ids, coefficients, control, counter, offset)
    norms = langevin_norms(network_output, *row, run_seed, precise)
    langevin_step(state, network_output, norms, *row, per_sample, run_seed, precise)
