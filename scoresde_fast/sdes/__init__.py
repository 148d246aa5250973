# SPDX-License-Identifier: Apache-2.0
"""Forward SDEs in closed form: frozen dataclasses in float64, without tensors."""

from scoresde_fast.sdes.base import (
    SDE,
    Array,
    Discretisation,
    Marginal,
    Observation,
    Reverse,
    ScalarSDE,
    ScoreMap,
    Time,
)
from scoresde_fast.sdes.cld import CLDSDE, PairKernel
from scoresde_fast.sdes.ve import VESDE
from scoresde_fast.sdes.vp import VPSDE, LinearBetaSDE, SubVPSDE

IMAGE_SDES: tuple[type[ScalarSDE], ...] = (VESDE, VPSDE, SubVPSDE)
"""The SDEs of Song et al. (2021), which act on images alone."""
SDES: dict[str, type[SDE]] = {**{cls.name: cls for cls in IMAGE_SDES}, CLDSDE.name: CLDSDE}
"""The SDEs by their names in the official configurations."""

__all__ = [
    "CLDSDE",
    "IMAGE_SDES",
    "SDE",
    "SDES",
    "VESDE",
    "VPSDE",
    "Array",
    "Discretisation",
    "LinearBetaSDE",
    "Marginal",
    "Observation",
    "PairKernel",
    "Reverse",
    "ScalarSDE",
    "ScoreMap",
    "SubVPSDE",
    "Time",
]
