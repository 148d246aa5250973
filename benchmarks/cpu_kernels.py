# SPDX-License-Identifier: Apache-2.0
"""The kernels on a CPU against eager PyTorch and torch.compile: python benchmarks/cpu_kernels.py [--only PART ...]

Two threads, one process, alternatives interleaved, medians.  The shapes are those of NCSN++ for CIFAR-10 at batch 8,
and 256 images of 3x32x32 for the solver's steps.  The process keeps the memory that it frees, as the command line's
does, so that neither side pays for fresh pages at every call.  Writes benchmarks/results/cpu-kernels.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from embedded import RESULTS
from network_shapes import CIFAR10, shapes
from torch import Tensor

from scoresde_fast.bench.machine import provenance
from scoresde_fast.bench.timing import interleaved
from scoresde_fast.devices import keep_freed_memory
from scoresde_fast.ops.affine_step import affine_step
from scoresde_fast.ops.fir_resample import fir_resample
from scoresde_fast.ops.group_norm_silu import group_norm_silu
from scoresde_fast.ops.langevin import langevin
from scoresde_fast.ops.step_table import COLUMNS, WIDTH, DeviceTable
from scoresde_fast.ops.winograd_convolution import fits, winograd_convolution, winograd_weight

THREADS = 2
TAPS = (1.0, 3.0, 3.0, 1.0)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def measure(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Milliseconds of each, and how many times faster than each other one "ours" is."""
    readings = interleaved(calls)
    milliseconds = {name: 1e3 * quartiles[1] for name, quartiles in readings.items()}
    ratios = {f"against {name}": value / milliseconds["ours"] for name, value in milliseconds.items() if name != "ours"}
    return {f"{name} ms": round(value, 4) for name, value in milliseconds.items()} | {
        name: round(ratio, 2) for name, ratio in ratios.items()
    }


def steps() -> dict[str, Any]:
    """A solver's step with its noise, and the Langevin pair with either norms, at 256 x 3 x 32 x 32."""
    x, score, ids = torch.randn(256, 3, 32, 32), torch.randn(256, 3, 32, 32), torch.arange(256)
    row = torch.zeros(1, WIDTH)
    row[0, [COLUMNS.state, COLUMNS.output, COLUMNS.noise, COLUMNS.derive_output]] = torch.tensor([0.99, 0.01, 0.1, 1.0])
    row[0, COLUMNS.langevin] = 0.05
    table = DeviceTable(row, torch.zeros(1, 3, dtype=torch.int32))

    def eager_step(x: Tensor, score: Tensor) -> Tensor:
        return 0.99 * x + 0.01 * score + 0.1 * torch.randn_like(x)

    def eager_langevin(x: Tensor, score: Tensor) -> Tensor:
        z = torch.randn_like(x)
        size = 0.05 * (z.flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean()) ** 2
        return x + size * score + (2 * size).sqrt() * z

    def eager_own_norms(x: Tensor, score: Tensor) -> Tensor:
        z = torch.randn_like(x)
        ratio = z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)
        size = 0.05 * ratio.square()[:, None, None, None]
        return x + size * score + (2 * size).sqrt() * z

    step, pair, own = (torch.compile(eager) for eager in (eager_step, eager_langevin, eager_own_norms))
    state = x.clone()
    return {
        "affine_step with noise": measure(
            {
                "eager": lambda: eager_step(x, score),
                "inductor": lambda: step(x, score),
                "ours": lambda: affine_step(state, table, network_output=score, sample_ids=ids),
            }
        ),
        "langevin, each sample's norms, and step": measure(
            {
                "eager": lambda: eager_own_norms(x, score),
                "inductor": lambda: own(x, score),
                "ours": lambda: langevin(state, score, ids, table),
            }
        ),
        "langevin, the batch's norms, and step": measure(
            {
                "eager": lambda: eager_langevin(x, score),
                "inductor": lambda: pair(x, score),
                "ours": lambda: langevin(state, score, ids, table, norm="batch"),
            }
        ),
    }


def norms() -> dict[str, Any]:
    """GroupNorm + SiLU in channels_last, and in NCHW float32, over the shapes of NCSN++ at batch 8."""

    def plain(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
        return F.silu(F.group_norm(x, groups, weight, bias, 1e-6))

    results = {}
    found = {shape for shape, _ in shapes("group_norm_silu", lambda name: name == "NCSN++")["NCSN++"]}
    for channels, height, width in sorted(found, reverse=True):
        groups = min(channels // 4, 32)
        for label, dtype in DTYPES.items():
            for layout in (torch.channels_last, torch.contiguous_format)[: 2 if label == "float32" else 1]:
                torch.compiler.reset()
                compiled = torch.compile(plain, dynamic=False)
                x = torch.randn(8, channels, height, width).to(dtype).contiguous(memory_format=layout)
                weight, bias = torch.randn(2, channels).to(dtype)
                name = f"{channels}@{height}x{width} {label} {str(layout).removeprefix('torch.')}"
                results[name] = measure(
                    {
                        "eager": lambda x=x, g=groups, w=weight, b=bias: plain(x, g, w, b),
                        "inductor": lambda x=x, g=groups, w=weight, b=bias, c=compiled: c(x, g, w, b),
                        "ours": lambda x=x, g=groups, w=weight, b=bias: group_norm_silu(x, w, b, g)[0],
                    }
                )
    return results


def resampling() -> dict[str, Any]:
    """The FIR filter with factor 2 over the shapes of NCSN++ at batch 8, against a grouped convolution."""
    results = {}
    for shape, direction in shapes("fir_resample", CIFAR10.__contains__)["NCSN++"]:
        for label, dtype in DTYPES.items():
            for layout in (torch.channels_last, torch.contiguous_format):
                x = torch.randn(8, *shape).to(dtype).contiguous(memory_format=layout)
                rest = (list(TAPS), direction, 1 if direction == "up" else 2, 4.0 if direction == "up" else 1.0)
                reference = torch.ops.scoresde_fast_reference.fir_resample.default
                name = "{}@{}x{} ".format(*shape) + f"{direction} {label} {str(layout).removeprefix('torch.')}"
                results[name] = measure(
                    {
                        "grouped convolution": lambda x=x, r=rest, f=reference: f(x, *r),
                        "ours": lambda x=x, d=direction: fir_resample(x, TAPS, d),
                    }
                )
    return results


def convolutions() -> dict[str, Any]:
    """Winograd's 3x3 convolutions over the shapes of NCSN++ at batch 8, float32, against torch's in both formats."""
    results = {}
    for (channels, height, width), (out, side) in shapes("convolution", lambda name: name == "NCSN++")["NCSN++"]:
        weight = torch.randn(out, channels, side, side) / (channels * side**2) ** 0.5
        if not fits(weight):
            continue
        x, bias, transformed = torch.randn(8, channels, height, width), torch.randn(out), winograd_weight(weight)
        last, weight_last = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight))
        calls = {
            "channels_last": lambda x=last, w=weight_last, b=bias: F.conv2d(x, w, b, padding=1),
            "NCHW": lambda x=x, w=weight, b=bias: F.conv2d(x, w, b, padding=1),
            "ours": lambda x=last, w=transformed, b=bias: winograd_convolution(x, w, b),
        }
        results[f"{channels} to {out} @{height}x{width}"] = measure(calls)
    return results


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "steps": steps,
    "group_norm_silu": norms,
    "fir_resample": resampling,
    "winograd_convolution": convolutions,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help="measure these alone")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    keep_freed_memory()
    out: Path = RESULTS / "cpu-kernels.json"
    result = json.loads(out.read_text()) if options.only and out.exists() else {}
    result |= {
        **provenance(),
    }
    with torch.inference_mode():
        for name in options.only or PARTS:
            result[name] = PARTS[name]()
            for case, figures in result[name].items():
                print(f"{case:<44}", *(f"{key} {value:<8g}" for key, value in figures.items()), flush=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
