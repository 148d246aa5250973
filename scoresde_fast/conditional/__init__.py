# SPDX-License-Identifier: Apache-2.0
"""Controllable generation: samples of an unconditional model held to what is known of them, or guided to it."""

from scoresde_fast.conditional.sampling import sample
from scoresde_fast.conditional.tasks import colorize, inpaint, restore

__all__ = ["colorize", "inpaint", "restore", "sample"]
