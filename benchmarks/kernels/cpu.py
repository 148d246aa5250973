# SPDX-License-Identifier: Apache-2.0
"""CPU kernels compared with eager PyTorch and torch.compile: python -m benchmarks.kernels.cpu [--only PART ...]

Medians of interleaved calls in one process with two threads, for the shapes of NCSN++ for CIFAR-10 at batch size 8, and
256 images of 3x32x32 for the solver's steps.  As on the command line, freed memory is kept, so that no call includes
page faults.  Writes benchmarks/results/cpu-kernels.json.  `make bench-kernels` times our kernels in the same cases with
pytest-benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.files import RESULTS, parser, save
from benchmarks.kernels.shapes import shapes
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
LAYOUTS = {"channels_last": torch.channels_last, "contiguous_format": torch.contiguous_format}

Calls = dict[str, Callable[[], Any]]
"""Alternatives by name; "ours" is our kernel."""
Cases = Iterator[tuple[str, Callable[[], Calls]]]
"""(title, function that makes the inputs and returns the calls) of each case."""


def ncsnpp(operation: str) -> list[tuple[Any, ...]]:
    """Return the (shape, form) pairs of an operation in NCSN++ for CIFAR-10, largest first."""
    return shapes(operation, lambda network: network == "NCSN++")["NCSN++"]


def steps() -> Cases:
    """Yield a solver's step with noise, and the Langevin step with either norm, at 256 x 3 x 32 x 32."""
    yield "affine_step with noise", partial(step_calls, None)
    yield "langevin, each sample's norms, and step", partial(step_calls, "sample")
    yield "langevin, the batch's norms, and step", partial(step_calls, "batch")


def step_table(device: str = "cpu") -> DeviceTable:
    """Return a table with one row: x <- 0.99 x + 0.01 score + 0.1 noise, or a Langevin step with 2 snr^2 = 0.05."""
    row = torch.zeros(1, WIDTH, device=device)
    columns = [COLUMNS.state, COLUMNS.output, COLUMNS.noise, COLUMNS.derive_output, COLUMNS.langevin]
    row[0, columns] = torch.tensor([0.99, 0.01, 0.1, 1.0, 0.05], device=device)
    return DeviceTable(row, torch.zeros(1, 3, dtype=torch.int32, device=device))


def eager_step(x: Tensor, score: Tensor) -> Tensor:
    """Take the step of `step_table` in plain PyTorch."""
    return 0.99 * x + 0.01 * score + 0.1 * torch.randn_like(x)


def eager_langevin(x: Tensor, score: Tensor) -> Tensor:
    """Take the Langevin step of `step_table` in plain PyTorch, with the mean norms of the batch."""
    z = torch.randn_like(x)
    size = 0.05 * (z.flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean()) ** 2
    return x + size * score + (2 * size).sqrt() * z


def eager_langevin_by_sample(x: Tensor, score: Tensor) -> Tensor:
    """Take the Langevin step of `step_table` in plain PyTorch, with the norms of each sample."""
    z = torch.randn_like(x)
    size = 0.05 * (z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)).square()[:, None, None, None]
    return x + size * score + (2 * size).sqrt() * z


def step_calls(norm: Literal["sample", "batch"] | None) -> Calls:
    """Return the calls of the solver's step, or of the Langevin step with the norm "sample" or "batch"."""
    x, score, ids = torch.randn(256, 3, 32, 32), torch.randn(256, 3, 32, 32), torch.arange(256)
    table, state = step_table(), x.clone()
    eager = {None: eager_step, "batch": eager_langevin, "sample": eager_langevin_by_sample}[norm]
    compiled = torch.compile(eager)

    def ours() -> None:
        if norm is None:
            affine_step(state, table, network_output=score, sample_ids=ids)
        else:
            langevin(state, score, ids, table, norm=norm)

    return {"eager": lambda: eager(x, score), "inductor": lambda: compiled(x, score), "ours": ours}


def norms() -> Cases:
    """Yield GroupNorm + SiLU in channels_last, and for float32 also in NCHW."""
    for shape in sorted({shape for shape, _ in ncsnpp("group_norm_silu")}, reverse=True):
        for kind in DTYPES:
            for layout in LAYOUTS if kind == "float32" else ["channels_last"]:
                yield "{}@{}x{} ".format(*shape) + f"{kind} {layout}", partial(norm_calls, shape, kind, layout)


def eager_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Apply GroupNorm + SiLU in plain PyTorch."""
    return F.silu(F.group_norm(x, groups, weight, bias, 1e-6))


def norm_calls(shape: tuple[int, ...], kind: str, layout: str) -> Calls:
    """Return the calls for 8 images."""
    groups, dtype = min(shape[0] // 4, 32), DTYPES[kind]
    torch.compiler.reset()  # beyond the recompile limit, shapes would run uncompiled
    compiled = torch.compile(eager_norm, dynamic=False)
    x = torch.randn(8, *shape).to(dtype).contiguous(memory_format=LAYOUTS[layout])
    weight, bias = torch.randn(2, shape[0]).to(dtype)
    return {
        "eager": lambda: eager_norm(x, weight, bias, groups),
        "inductor": lambda: compiled(x, weight, bias, groups),
        "ours": lambda: group_norm_silu(x, weight, bias, groups)[0],
    }


def resampling() -> Cases:
    """Yield resampling by two with the FIR filter, compared with a grouped convolution."""
    for shape, direction in ncsnpp("fir_resample"):
        for kind in DTYPES:
            for layout in LAYOUTS:
                name = "{}@{}x{} ".format(*shape) + f"{direction} {kind} {layout}"
                yield name, partial(resampling_calls, shape, direction, kind, layout)


def resampling_calls(shape: tuple[int, ...], direction: Any, kind: str, layout: str) -> Calls:
    """Return the calls for 8 images."""
    x = torch.randn(8, *shape).to(DTYPES[kind]).contiguous(memory_format=LAYOUTS[layout])
    offset, gain = (1, 4.0) if direction == "up" else (2, 1.0)
    reference = torch.ops.scoresde_fast_reference.fir_resample.default
    return {
        "grouped convolution": lambda: reference(x, list(TAPS), direction, offset, gain),
        "ours": lambda: fir_resample(x, TAPS, direction),
    }


def convolutions() -> Cases:
    """Yield 3x3 Winograd convolutions in float32, compared with PyTorch's in both memory formats."""
    for (channels, height, width), (out, side) in ncsnpp("convolution"):
        if fits(torch.empty(out, channels, side, side)):
            case = partial(convolution_calls, channels, height, width, out)
            yield f"{channels} to {out} @{height}x{width}", case


def convolution_calls(channels: int, height: int, width: int, out: int) -> Calls:
    """Return the calls for 8 images."""
    weight = torch.randn(out, channels, 3, 3) / (9 * channels) ** 0.5
    x, bias, transformed = torch.randn(8, channels, height, width), torch.randn(out), winograd_weight(weight)
    last, weight_last = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight))
    return {
        "channels_last": lambda: F.conv2d(last, weight_last, bias, padding=1),
        "NCHW": lambda: F.conv2d(x, weight, bias, padding=1),
        "ours": lambda: winograd_convolution(last, transformed, bias),
    }


PARTS: dict[str, Callable[[], Cases]] = {
    "steps": steps,
    "group_norm_silu": norms,
    "fir_resample": resampling,
    "winograd_convolution": convolutions,
}


def measure(calls: Calls) -> dict[str, float]:
    """Return the milliseconds of each call, and the speed-up of "ours" over each of the others."""
    milliseconds = {name: 1e3 * quartiles[1] for name, quartiles in interleaved(calls).items()}
    ratios = {f"against {name}": value / milliseconds["ours"] for name, value in milliseconds.items() if name != "ours"}
    return {f"{name} ms": value for name, value in milliseconds.items()} | ratios


def main() -> None:
    """Measure the selected parts; results of other parts are kept."""
    arguments = parser(__doc__)
    arguments.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"only these: {', '.join(PARTS)}")
    options = arguments.parse_args()
    torch.set_num_threads(THREADS)
    keep_freed_memory()
    out = RESULTS / "cpu-kernels.json"
    result: dict[str, Any] = json.loads(out.read_text()) if options.only and out.exists() else {}
    with torch.inference_mode():
        for part in options.only or PARTS:
            result[part] = {}
            for case, make in PARTS[part]():
                result[part][case] = figures = measure(make())
                print(f"{case:<44}", *(f"{key} {value:<8.4g}" for key, value in figures.items()), flush=True)
    save(result, out)


if __name__ == "__main__":
    main()
