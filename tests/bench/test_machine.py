# SPDX-License-Identifier: Apache-2.0
"""The peaks of the measured machine."""

from __future__ import annotations

from scoresde_fast.bench import machine
from tests.support.bench_models import CEILINGS


def test_a_busy_machine_is_noticed() -> None:
    """The highest ceilings count; a peak that fell by more than a fifth shows that something else was running."""
    lower = CEILINGS | {"matmul_tflops": 0.07, "copy_gb_per_s": 12.0}
    assert machine.highest([CEILINGS, lower]) == CEILINGS | {"copy_gb_per_s": 12.0, "readings": 2, "steady": False}
    assert machine.highest([CEILINGS, CEILINGS | {"matmul_tflops": 0.09}])["steady"]
