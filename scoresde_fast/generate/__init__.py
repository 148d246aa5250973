# SPDX-License-Identifier: Apache-2.0
"""Sets of samples on disk: determined by their seeds, resumable, and written by any number of processes."""

from scoresde_fast.generate.manifest import SetInUseError
from scoresde_fast.generate.pipeline import Report
from scoresde_fast.generate.run import ImageSampler, generate
from scoresde_fast.generate.seeds import SeedSet, Shard, format_seeds, parse_seeds
from scoresde_fast.generate.states import write_states

__all__ = [
    "ImageSampler",
    "Report",
    "SeedSet",
    "SetInUseError",
    "Shard",
    "format_seeds",
    "generate",
    "parse_seeds",
    "write_states",
]
