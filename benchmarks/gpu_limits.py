# SPDX-License-Identifier: Apache-2.0
"""What the device reaches at most: found by the first item of a visit, or measured where it is needed."""

from __future__ import annotations

import gpu_errors
import gpu_setting
from gpu_report import Report

from scoresde_fast.bench.machine import copy_bandwidth, matmul_peak

COPY, PEAK = "copy GB/s", "matmul TFLOP/s"


def bandwidth(report: Report) -> float:
    """GB/s of a copy, read and write added."""
    if COPY not in report.known:
        report.known[COPY] = copy_bandwidth(gpu_setting.now.copy_gigabytes, gpu_errors.DEVICE)
    found: float = report.known[COPY]
    return found


def peak(report: Report) -> float:
    """TFLOP/s of a matrix product in bfloat16."""
    if PEAK not in report.known:
        report.known[PEAK] = matmul_peak(gpu_setting.now.matmul_sizes, device=gpu_errors.DEVICE)
    found: float = report.known[PEAK]
    return found
