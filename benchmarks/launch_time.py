# SPDX-License-Identifier: Apache-2.0
"""What launching a fused norm costs the host, measured without a GPU: python benchmarks/launch_time.py

The launcher of ``kernels/group_norm_silu.py`` on tensors of the CPU, up to where CUDA would be called, beside Triton's
own way of launching the same kernel. Interleaved, medians. Writes benchmarks/results/launch-time.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # read when Triton is imported

import torch
from no_gpu import Driver
from scoresde_fast.kernels.group_norm_silu import form_of, group_norm_silu
from scoresde_fast.kernels.launch import Form
from triton.runtime import driver

from scoresde_fast.bench.machine import provenance
from scoresde_fast.bench.timing import interleaved

RESULTS = Path(__file__).resolve().parent / "results"
BATCH = 2


def launches(channels: int, size: int, join: bool) -> dict[str, Any]:
    """Microseconds of a launch, ours and Triton's."""
    x = torch.empty(BATCH, channels, size, size, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    weight, residual = torch.empty(channels), torch.empty_like(x) if join else None
    arguments = (x, weight, weight, min(channels // 4, 32), 1e-6, None, residual, 1.0, True, "none", ())

    def by_triton() -> None:
        known, Form.launch = Form.launch, lambda form, programs, *tensors: form._launch_by_triton(programs, tensors)
        try:
            group_norm_silu(*arguments)
        finally:
            Form.launch = known

    calls = {"ours": lambda: group_norm_silu(*arguments), "by Triton": by_triton}
    return {f"{name}_us": round(1e6 * times[1], 2) for name, times in interleaved(calls, rounds=25).items()}


def main() -> None:
    driver.set_active(Driver())
    torch.set_num_threads(1)
    form_of.cache_clear()
    cases = {
        f"{channels}@{size}x{size}, {'join' if join else 'alone'}": launches(channels, size, join)
        for channels, size in ((128, 32), (256, 16), (384, 16), (256, 4))
        for join in (False, True)
    }
    result = {
        **provenance(),
        "cases": cases,
    }
    (RESULTS / "launch-time.json").write_text(json.dumps(result, indent=1) + "\n")
    for name, times in cases.items():
        print(f"{name:<24} {times}")


if __name__ == "__main__":
    sys.exit(main())
