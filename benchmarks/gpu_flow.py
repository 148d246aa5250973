# SPDX-License-Identifier: Apache-2.0
"""Figures of the probability flow on a GPU: rows 13 and 14 of the targets; `flow.py` measures them on a CPU."""

from __future__ import annotations

import gpu_errors
import gpu_setting
import torch
from flow import row_13, row_14
from gpu_report import Report

from scoresde_fast.precision import Precision

EXACT: tuple[Precision, ...] = ("tf32", "fp32")
"""In which SciPy's loop and ours are compared with the same arithmetic."""


def divergence(report: Report) -> None:
    """Row 14: an evaluation with its divergence over one without, both captured."""
    device, model = torch.device(gpu_errors.DEVICE), gpu_setting.now.model()
    precisions: tuple[Precision, ...] = ("bf16", *EXACT)
    for precision in precisions:
        found = row_14(model, gpu_setting.now.batch, min(8, gpu_setting.now.rounds), device, precision)
        report.case(precision, found)
        report.figure(f"row 14: {precision} (floor 2.6, goal 2.1)", found["times_forward"])


def integration(report: Report) -> None:
    """Row 13: RK45 against SciPy's loop, with the same flags for both; and ours in bf16, with its difference."""
    device = torch.device(gpu_errors.DEVICE)
    for precision in EXACT:
        found = row_13(gpu_setting.now.flow_model, gpu_setting.now.flow_batch, 2, device, precision)
        report.case(precision, found)
        report.figure(f"row 13: {precision} (floor 6, goal 12)", found["times_scipy"])
    # SciPy's fastest is TF32: bf16 changes the evaluations that steps take, and the images by what is said beside it.
    found = row_13(gpu_setting.now.flow_model, gpu_setting.now.flow_batch, 1, device, "bf16")
    report.case("bf16", found)
    report.figure("row 13: bf16 against SciPy in TF32", found["times_scipy"])
    report.figure("row 13: bf16, largest difference from SciPy", found["largest_difference_from_scipy"])
