# SPDX-License-Identifier: Apache-2.0
"""Forward SDEs in closed form: frozen dataclasses, float64, no tensors."""

from scoresde_fast.sdes.base import SDE, Array, Discretisation, Marginal, Reverse, ScalarSDE, Time
from scoresde_fast.sdes.cld import CLDSDE, PairKernel, PairScore
from scoresde_fast.sdes.observation import Observation, observation, tweedie
from scoresde_fast.sdes.ve import VESDE
from scoresde_fast.sdes.vp import VPSDE, LinearBetaSDE, SubVPSDE

SDES: dict[str, type[SDE]] = {cls.name: cls for cls in (VESDE, VPSDE, SubVPSDE, CLDSDE)}
"""The SDEs by the names of the original's configurations."""

__all__ = [
    "CLDSDE",
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
    "PairScore",
    "Reverse",
    "ScalarSDE",
    "SubVPSDE",
    "Time",
    "observation",
    "tweedie",
]
