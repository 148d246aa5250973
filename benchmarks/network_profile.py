# SPDX-License-Identifier: Apache-2.0
"""Where an evaluation of the folded network spends its time: python benchmarks/network_profile.py [NAME] [--batch 1 16]

Self time of every operation, grouped, by PyTorch's profiler, beside the plain network's; on a GPU where there is one.
Writes benchmarks/results/profile-DEVICE.json and prints the table that PROFILE.md shows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from typing import Any

import torch
from embedded import RESULTS

from scoresde_fast.bench.machine import provenance
from scoresde_fast.bench.timing import synchronise
from scoresde_fast.bench.workload import measured_model
from scoresde_fast.devices import choose_precision, keep_freed_memory
from scoresde_fast.networks.folding import FoldedNetwork

KINDS = {
    "3x3 convolutions": ("winograd",),
    "other convolutions": ("convolution", "conv2d", "cudnn", "implicit_gemm", "fprop"),
    "norm and activation": ("group_norm_silu",),
    "attention": ("attention", "addmm", "bmm", "native_group_norm", "softmax"),
    "concatenation": ("cat", "CatArray"),
    "FIR resampling": ("fir_resample",),
}


def kind_of(operation: str) -> str:
    return next((kind for kind, names in KINDS.items() if any(name in operation for name in names)), "the rest")


def times_by_name(profiler: torch.profiler.profile, device: torch.device) -> dict[str, float]:
    """Microseconds of each kernel on a GPU, and of each operation's own work on a CPU.

    On a GPU the profiler lists what launched a kernel too, with the kernel's time.
    """
    if device.type == "cuda":
        kernels = [e for e in profiler.key_averages() if e.device_type == torch.autograd.DeviceType.CUDA]
        return {event.key: event.self_device_time_total for event in kernels}
    return {event.key: event.self_cpu_time_total for event in profiler.key_averages()}


def seconds_of(call: Any, device: torch.device, repeats: int) -> float:
    """Median of ``repeats`` calls after one more."""
    readings = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        synchronise(device)
        readings.append(time.perf_counter() - start)
    return statistics.median(readings[1:])


def measure(name: str, batch: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Milliseconds of one evaluation, plain and folded, and the share of every kind of operation in the folded one."""
    model = measured_model(name).to(device)
    labels, row = torch.full((1,), 0.5, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    precision = choose_precision("auto", device)
    folded = FoldedNetwork(model.network, labels, precision)
    x = torch.rand(batch, *model.state_shape, device=device)
    plain = seconds_of(lambda: model.network(x, labels.expand(batch)), device, repeats)
    ours = seconds_of(lambda: folded(x, row), device, repeats)
    with torch.profiler.profile() as profiler:
        folded(x, row)
        synchronise(device)
    spent: dict[str, float] = defaultdict(float)
    for name_of_event, time_of_event in times_by_name(profiler, device).items():
        spent[kind_of(name_of_event)] += time_of_event
    total = sum(spent.values())
    return {
        "plain ms": round(1e3 * plain, 2),
        "folded ms": round(1e3 * ours, 2),
        "precision": precision,
        "shares": {kind: round(spent[kind] / total, 4) for kind in (*KINDS, "the rest")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", nargs="?", default="ve/cifar10_ncsnpp_continuous")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, Any] = {
        **provenance(),
        "network": options.name,
    }
    with torch.inference_mode():
        for batch in options.batch:
            result[f"batch {batch}"] = found = measure(options.name, batch, device, options.repeats)
            shares = " | ".join(f"{share:.0%}" for share in found["shares"].values())
            print(f"| {batch} | {found['plain ms']:.0f} | {found['folded ms']:.0f} | {shares} |", flush=True)
    (RESULTS / f"profile-{device.type}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
