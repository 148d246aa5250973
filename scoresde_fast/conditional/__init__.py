# SPDX-License-Identifier: Apache-2.0
"""Controllable generation: samples of an unconditional model held to what is known of them."""

from scoresde_fast.conditional.projection import Projection
from scoresde_fast.conditional.tasks import colorize, inpaint

__all__ = ["Projection", "colorize", "inpaint"]
