# SPDX-License-Identifier: Apache-2.0
"""Sets of samples on disk: resumable, shared by any number of processes, and determined by their seeds."""

from scoresde_fast.generate.manifest import SetInUseError
from scoresde_fast.generate.pipeline import Report
from scoresde_fast.generate.run import ImageSampler, generate
from scoresde_fast.generate.seeds import SeedSet, Shard, format_seeds, parse_seeds
from scoresde_fast.generate.states import write_states
from scoresde_fast.generate.stores import FORMATS

__all__ = [
    "FORMATS",
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
