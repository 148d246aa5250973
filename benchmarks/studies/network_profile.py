# SPDX-License-Identifier: Apache-2.0
"""Time of a network evaluation by kind of operation: python -m benchmarks.studies.network_profile

Total time of the plain and the folded network, and shares of the folded one's operations by PyTorch's profiler; on a
GPU if there is one. Writes benchmarks/results/profile-DEVICE.json and prints the table rows of PROFILE.md.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch._C._autograd import DeviceType

from benchmarks.files import RESULTS, parser, save
from scoresde_fast.bench.timing import race, synchronise
from scoresde_fast.bench.workload import measured_model
from scoresde_fast.devices import choose_precision, keep_freed_memory
from scoresde_fast.loop.evaluator import evaluator

KINDS = {
    "3x3 convolutions": ("winograd",),
    "other convolutions": ("convolution", "conv2d", "cudnn", "implicit_gemm", "fprop"),
    "norm and activation": ("group_norm_silu",),
    "attention": ("attention", "addmm", "bmm", "native_group_norm", "softmax"),
    "concatenation": ("cat", "CatArray"),
    "FIR resampling": ("fir_resample",),
}


def kind_of(operation: str) -> str:
    """Return the key of `KINDS` for an operation or a kernel, or "the rest"."""
    return next((kind for kind, names in KINDS.items() if any(name in operation for name in names)), "the rest")


def times_by_name(profiler: torch.profiler.profile, device: torch.device) -> dict[str, float]:
    """Return the microseconds of each kernel on a GPU, or the self time of each operation on a CPU.

    On a GPU the profiler also lists the operations that launched a kernel, with the kernel's time; they are left out.
    """
    if device.type == "cuda":
        kernels = [event for event in profiler.key_averages() if event.device_type == DeviceType.CUDA]
        return {event.key: event.self_device_time_total for event in kernels}
    return {event.key: event.self_cpu_time_total for event in profiler.key_averages()}


def measure(name: str, batch: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Return milliseconds of a plain and a folded evaluation, and the shares of the folded one by kind."""
    model = measured_model(name).to(device)
    labels, row = torch.full((1,), 0.5, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    precision = choose_precision("auto", device)
    folded = evaluator(model.network, labels, precision)
    x = torch.rand(batch, *model.state_shape, device=device)
    runs: dict[str, Callable[[], Any]] = {
        "plain": lambda: model.network(x, labels.expand(batch)),
        "folded": lambda: folded(x, row),
    }
    for run in runs.values():
        run()
    milliseconds = {
        f"{label} ms": round(1e3 * statistics.median(seconds), 2)
        for label, seconds in race(runs, device, math.inf, most=repeats).items()
    }
    with torch.profiler.profile() as profiler:
        folded(x, row)
        synchronise(device)
    microseconds: dict[str, float] = defaultdict(float)
    for event, time in times_by_name(profiler, device).items():
        microseconds[kind_of(event)] += time
    total = sum(microseconds.values())
    return {
        **milliseconds,
        "precision": precision,
        "shares": {kind: round(microseconds[kind] / total, 4) for kind in (*KINDS, "the rest")},
    }


def main() -> None:
    """Measure each batch size, print its row and write the result."""
    arguments = parser(__doc__)
    arguments.add_argument("name", nargs="?", default="ve/cifar10_ncsnpp_continuous")
    arguments.add_argument("--batch", type=int, nargs="+", default=[1, 16, 256])
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, Any] = {"network": options.name}
    with torch.inference_mode():
        for batch in options.batch:
            result[f"batch {batch}"] = row = measure(options.name, batch, device, options.repeats)
            shares = " | ".join(f"{share:.0%}" for share in row["shares"].values())
            print(f"| {batch} | {row['plain ms']:.0f} | {row['folded ms']:.0f} | {shares} |", flush=True)
    save(result, RESULTS / f"profile-{device.type}.json")


if __name__ == "__main__":
    main()
