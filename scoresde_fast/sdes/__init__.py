# SPDX-License-Identifier: Apache-2.0
"""Forward SDEs in closed form: frozen dataclasses that compute in float64, without tensors.

To add an SDE, derive a dataclass from `ScalarSDE`.  To use it in configurations, list it in `SDES` and add its name to
``configs.schema.SDEName``.  Its fields that ``ModelConfig`` has too become options of the configuration.
docs/architecture.md lists the tables in benchmarks and tests to which the SDE must be added.
"""

from scoresde_fast.sdes.base import SDE, Array, ScoreMap, Time
from scoresde_fast.sdes.cld import CLDSDE
from scoresde_fast.sdes.scalar import VESDE, VPSDE, Discretisation, DiscretisedSDE, Reverse, ScalarSDE, SubVPSDE
from scoresde_fast.sdes.schedules import EDM, SMLD, Betas, RectifiedFlow, Schedule

SDES: dict[str, type[SDE]] = {"vesde": VESDE, "vpsde": VPSDE, "subvpsde": SubVPSDE, "cld": CLDSDE}
"""The SDEs by their names in the official configurations."""

__all__ = [
    "CLDSDE",
    "EDM",
    "SDE",
    "SDES",
    "SMLD",
    "VESDE",
    "VPSDE",
    "Array",
    "Betas",
    "Discretisation",
    "DiscretisedSDE",
    "RectifiedFlow",
    "Reverse",
    "ScalarSDE",
    "Schedule",
    "ScoreMap",
    "SubVPSDE",
    "Time",
]
