# SPDX-License-Identifier: Apache-2.0
"""Forward SDEs in closed form: frozen dataclasses that compute in float64, without tensors.

To add an SDE, derive a dataclass from `ScalarSDE`, list it in `IMAGE_SDES` and add its name to
``configs.schema.SDEName``.  Its fields become options of a configuration if ``ModelConfig`` has fields of these names.
docs/architecture.md lists the tables of benchmarks and tests that need the SDE too.
"""

from scoresde_fast.sdes.base import SDE, Array, ScoreMap, Time
from scoresde_fast.sdes.cld import CLDSDE
from scoresde_fast.sdes.scalar import VESDE, VPSDE, Discretisation, Reverse, ScalarSDE, SubVPSDE

IMAGE_SDES: tuple[type[ScalarSDE], ...] = (VESDE, VPSDE, SubVPSDE)
"""The SDEs of Song et al. (2021), whose states are the data alone, and the default SDEs of `solvers.solver`."""
SDES: dict[str, type[SDE]] = {**{cls.name: cls for cls in IMAGE_SDES}, CLDSDE.name: CLDSDE}
"""All SDEs by their names in the official configurations."""

__all__ = [
    "CLDSDE",
    "IMAGE_SDES",
    "SDE",
    "SDES",
    "VESDE",
    "VPSDE",
    "Array",
    "Discretisation",
    "Reverse",
    "ScalarSDE",
    "ScoreMap",
    "SubVPSDE",
    "Time",
]
