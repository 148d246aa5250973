# SPDX-License-Identifier: Apache-2.0
"""Controllable generation: samples of an unconditional model held to what is known of them, or guided to it."""

from scoresde_fast.conditional.classes import ClassGuidance
from scoresde_fast.conditional.dps import DPS
from scoresde_fast.conditional.operators import Blur, Gray, LinearOperator, Mask, Separable, SuperResolution
from scoresde_fast.conditional.pigdm import PiGDM
from scoresde_fast.conditional.projection import Projection
from scoresde_fast.conditional.sampling import sample
from scoresde_fast.conditional.tasks import colorize, inpaint, restore

__all__ = [
    "DPS",
    "Blur",
    "ClassGuidance",
    "Gray",
    "LinearOperator",
    "Mask",
    "PiGDM",
    "Projection",
    "Separable",
    "SuperResolution",
    "colorize",
    "inpaint",
    "restore",
    "sample",
]
