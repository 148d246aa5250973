# SPDX-License-Identifier: Apache-2.0
"""Tests of the peak rates of the machine."""

from __future__ import annotations

from scoresde_fast.bench import machine
from tests.support.bench_models import CEILINGS


def test_a_busy_machine_is_detected() -> None:
    """The highest rates count; a matmul peak that varies by more than 20 % indicates another process."""
    lower = CEILINGS | {"matmul_tflops": 0.07, "copy_gb_per_s": 12.0}
    unsteady = CEILINGS | {"copy_gb_per_s": 12.0, "readings": 2, "steady": False}
    assert machine.highest_rates([CEILINGS, lower]) == unsteady
    assert machine.highest_rates([CEILINGS, CEILINGS | {"matmul_tflops": 0.09}])["steady"]
