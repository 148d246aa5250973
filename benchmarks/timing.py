# SPDX-License-Identifier: Apache-2.0
"""How this folder measures: as `scoresde_fast.bench` does."""

from scoresde_fast.bench.machine import copy_bandwidth, device_info, matmul_peak
from scoresde_fast.bench.timing import gpu_seconds, interleaved, rotation

__all__ = ["copy_bandwidth", "device_info", "gpu_seconds", "interleaved", "matmul_peak", "rotation"]
