# SPDX-License-Identifier: Apache-2.0
"""Figures of the probability flow on a GPU; `flow.py` measures them on a CPU."""

from __future__ import annotations

import gpu_errors
import gpu_setting
import torch
from flow import divergence_cost, rk45_against_scipy
from gpu_report import Report

from scoresde_fast.devices import Precision

EXACT: tuple[Precision, ...] = ("tf32", "fp32")
"""In which SciPy's loop and ours are compared with the same arithmetic."""


def divergence(report: Report) -> None:
    """An evaluation with its divergence over one without, both captured."""
    device, model = torch.device(gpu_errors.DEVICE), gpu_setting.now.model()
    precisions: tuple[Precision, ...] = ("bf16", *EXACT)
    for precision in precisions:
        found = divergence_cost(model, gpu_setting.now.batch, min(8, gpu_setting.now.rounds), device, precision)
        report.case(precision, found)
        report.target("divergence", found["times_forward"], precision)


def integration(report: Report) -> None:
    """RK45 against SciPy's loop, with the same flags for both; and ours in bf16, with its difference."""
    device = torch.device(gpu_errors.DEVICE)
    for precision in EXACT:
        found = rk45_against_scipy(gpu_setting.now.flow_model, gpu_setting.now.flow_batch, 2, device, precision)
        report.case(precision, found)
        report.target("RK45 against SciPy", found["times_scipy"], precision)
    # SciPy's fastest is TF32: bf16 changes the evaluations that steps take, and the images by what is said beside it.
    found = rk45_against_scipy(gpu_setting.now.flow_model, gpu_setting.now.flow_batch, 1, device, "bf16")
    report.case("bf16", found)
    report.target("RK45 against SciPy", found["times_scipy"], "bf16 against TF32")
    report.figure("largest difference of bf16 from SciPy", found["largest_difference_from_scipy"])
