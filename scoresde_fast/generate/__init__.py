# SPDX-License-Identifier: Apache-2.0
"""Sets of images on the disk: named by seed, described, resumable, the same whoever makes which share of them."""

from scoresde_fast.generate.locks import SetInUseError
from scoresde_fast.generate.progress import Report
from scoresde_fast.generate.run import ImageSource, generate
from scoresde_fast.generate.seed_set import SeedSet
from scoresde_fast.generate.seeds import format_seeds, parse_seeds
from scoresde_fast.generate.shards import Shard
from scoresde_fast.generate.states import write_states
from scoresde_fast.generate.stores import FORMATS

__all__ = [
    "FORMATS",
    "ImageSource",
    "Report",
    "SeedSet",
    "SetInUseError",
    "Shard",
    "format_seeds",
    "generate",
    "parse_seeds",
    "write_states",
]
