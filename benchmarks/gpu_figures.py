# SPDX-License-Identifier: Apache-2.0
"""Figures on a GPU: the table of kernel measures, each against what a competent user would write.

Rows are numbered as in the project's performance targets; a floor or a goal is in the target's own unit.  All medians
are of interleaved runs over inputs that no cache holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gpu_checks
import torch
import torch.nn.functional as F
from gpu_checks import fused_attention, present, random_attention
from network_shapes import CIFAR10, heaviest_convolutions, shapes
from randn_step import randn_step
from scoresde_fast.kernels import convolution as convolution_kernels
from torch import Tensor

from scoresde_fast.bench.timing import gpu_seconds, rotation
from scoresde_fast.ops.affine_step import affine_step
from scoresde_fast.ops.convolution import operation as convolution
from scoresde_fast.ops.langevin_norms import langevin_norms
from scoresde_fast.ops.langevin_step import langevin_step
from scoresde_fast.ops.step_table import COLUMNS, WIDTH, DeviceTable

BYTES = 256 * 2**20  # of state or activation, at least: five times the largest L2 cache
BATCHES = (1, 16, 256)
STEP_BATCHES = {"256 MB": BYTES // (4 * 3072), "CIFAR-10 batch 64": 64}
ATTENTION_CHANNELS = 256
#: Of each network: how many convolutions are measured, and at which batches.
CONVOLUTIONS = {"NCSN++": (9, (16, 256)), "FFHQ-256": (3, (1, 16))}
CONVOLUTION_SECONDS = 90  # no shape is begun after these: the compiler tries many forms of each


def norm_rows(bandwidth: float) -> dict[str, Any]:
    """Rows 1 and 2: GroupNorm + SiLU in channels_last bf16, as share of copy bandwidth and against torch.compile."""

    def plain(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        return F.silu(F.group_norm(x, groups, weight, bias, 1e-6))

    cases = {}
    found = {shape for network in shapes("group_norm_silu", CIFAR10.__contains__).values() for shape, _ in network}
    for channels, height, width in sorted(found, reverse=True):
        full = -(-BYTES // (2 * channels * height * width))
        for batch in (*BATCHES, full):
            torch._dynamo.reset()  # shapes beyond its limit of recompilations would run uncompiled, without a word
            compiled = torch.compile(plain, dynamic=False)
            groups = min(channels // 4, 32)
            weight, bias = torch.randn(2, channels, device=gpu_checks.DEVICE, dtype=torch.bfloat16)

            def make(size: tuple[int, ...] = (batch, channels, height, width)) -> tuple[Tensor]:
                x = torch.randn(size, device=gpu_checks.DEVICE, dtype=torch.bfloat16)
                return (x.contiguous(memory_format=torch.channels_last),)

            calls: dict[str, Callable[..., Any]] = {
                "eager": lambda x, w=weight, b=bias, g=groups: plain(x, w, b, g),
                "inductor": lambda x, w=weight, b=bias, g=groups, c=compiled: c(x, w, b, g),
            }
            for backend, function in present("group_norm_silu"):
                calls[backend] = lambda x, f=function, w=weight, b=bias, g=groups: f(
                    x, w, b, g, 1e-6, None, None, 1.0, True, "none", [1.0, 3.0, 3.0, 1.0]
                )
            seconds = gpu_seconds(calls, rotation(make, 16), rounds=20)
            ours = min(seconds[backend] for backend, _ in present("group_norm_silu"))
            case: dict[str, Any] = {f"{name}_us": round(1e6 * value, 2) for name, value in seconds.items()}
            case["against_inductor"] = round(seconds["inductor"] / ours, 3)
            if batch == full:
                moved = 2 * 2 * batch * channels * height * width
                case["share_of_copy"] = round(moved / ours / 1e9 / bandwidth, 3)
            cases[f"{channels}@{height}x{width} batch {batch}"] = case
    large = [case for case in cases.values() if "share_of_copy" in case]
    return {
        "row 1: worst share of copy bandwidth (floor 0.85, goal 0.93)": min(case["share_of_copy"] for case in large),
        "row 2: worst against inductor, large (floor 1.2, goal 1.5)": min(case["against_inductor"] for case in large),
        "inductor wins on": [label for label, case in cases.items() if case["against_inductor"] < 1],
        "cases": cases,
    }


def _table(noise: float) -> DeviceTable:
    row = torch.zeros(1, WIDTH, device=gpu_checks.DEVICE)
    row[0, [COLUMNS.state, COLUMNS.output, COLUMNS.noise]] = torch.tensor([0.99, 0.01, noise], device=gpu_checks.DEVICE)
    row[0, [COLUMNS.derive_output, COLUMNS.langevin]] = torch.tensor([1.0, 0.05], device=gpu_checks.DEVICE)
    return DeviceTable(row, torch.zeros(1, 3, dtype=torch.int32, device=gpu_checks.DEVICE))


def step_rows(bandwidth: float) -> dict[str, Any]:
    """Rows 3 to 5: the solver's step and the Langevin pair on 256 MB of state, and on a batch of CIFAR-10 images."""
    cases, table = {}, _table(0.1)
    for label, batch in STEP_BATCHES.items():
        ids = torch.arange(batch, device=gpu_checks.DEVICE)
        for dtype in (torch.float32, torch.bfloat16):
            for noisy in (True, False):
                calls = _step_calls(table, ids if noisy else None)
                make = _states(batch, dtype)
                seconds = gpu_seconds(calls, rotation(make, 8), rounds=20)
                moved = batch * 3072 * (8 + dtype.itemsize)
                key = f"{label} {str(dtype)[6:]} {'noise' if noisy else 'no noise'}"
                cases[key] = {f"{name}_us": round(1e6 * value, 2) for name, value in seconds.items()} | {
                    f"{name} share_of_copy": round(moved / value / 1e9 / bandwidth, 3)
                    for name, value in seconds.items()
                }
        cases[f"{label} langevin"] = _langevin_case(batch, ids, table, bandwidth)
    noisy = cases["256 MB float32 noise"]
    best = min(noisy[f"{backend}_us"] for backend, _ in present("affine_step"))
    return {
        "row 3: share of copy bandwidth (floor 0.85, goal 0.93)": max(
            noisy[f"{backend} share_of_copy"] for backend, _ in present("affine_step")
        ),
        "row 4: against eager (floor 3, goal 4.5)": round(noisy["eager_us"] / best, 2),
        "row 4: against tl.randn (floor 1.8, goal 2.5)": round(noisy["tl.randn_us"] / best, 2),
        "row 5: Langevin bytes over the least (floor 1.5, goal 1.05)": cases["256 MB langevin"]["bytes_over_least"],
        "cases": cases,
    }


def _states(batch: int, dtype: torch.dtype) -> Callable[[], tuple[Tensor, ...]]:
    def make() -> tuple[Tensor, ...]:
        x = torch.randn(batch, 3, 32, 32, device=gpu_checks.DEVICE)
        return x, torch.randn_like(x).to(dtype)

    return make


def _step_calls(table: DeviceTable, ids: Tensor | None) -> dict[str, Callable[..., Any]]:
    def eager(x: Tensor, score: Tensor) -> Tensor:
        mean = 0.99 * x + 0.01 * score
        return mean if ids is None else mean + 0.1 * torch.randn_like(x)

    calls: dict[str, Callable[..., Any]] = {"eager": eager, "inductor": torch.compile(eager, dynamic=False)}
    if ids is not None:
        calls["tl.randn"] = lambda x, score: randn_step(x, score, table.coefficients)
    for backend, function in present("affine_step"):
        calls[backend] = lambda x, score, f=function: affine_step(
            x, table, network_output=score, sample_ids=ids, implementation=f
        )
    return calls


def _langevin_case(batch: int, ids: Tensor, table: DeviceTable, bandwidth: float) -> dict[str, Any]:
    def eager(x: Tensor, score: Tensor) -> Tensor:
        z = torch.randn_like(x)
        ratio = z.flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean()
        size = 0.05 * ratio**2
        return x + size * score + (2 * size).sqrt() * z

    calls: dict[str, Callable[..., Any]] = {"eager": eager, "inductor": torch.compile(eager, dynamic=False)}
    steps = dict(present("langevin_step"))
    for backend, function in present("langevin_norms"):

        def correct(x: Tensor, score: Tensor, norms_by: Any = function, step_by: Any = steps[backend]) -> None:
            norms = langevin_norms(score, ids, table, implementation=norms_by)
            langevin_step(x, score, norms, ids, table, norm="batch", implementation=step_by)

        calls[backend] = correct
    seconds = gpu_seconds(calls, rotation(_states(batch, torch.float32), 8), rounds=20)
    best = min(seconds[backend] for backend in steps)
    # Bytes cannot be counted without a profiler: what could have been copied in the time is an upper bound of them.
    return {f"{name}_us": round(1e6 * value, 2) for name, value in seconds.items()} | {
        "bytes_over_least": round(best * bandwidth * 1e9 / (batch * 3072 * 12), 3),
        "against_eager": round(seconds["eager"] / best, 2),
    }


def attention_row(bandwidth: float) -> dict[str, Any]:
    """Row 12: the attention block in bf16 channels_last against four projections and SDPA, eager and compiled."""
    cases = {}
    for side in (16, 8, 4):
        block, merged = random_attention(ATTENTION_CHANNELS, torch.bfloat16)
        compiled = torch.compile(block, dynamic=False)
        for batch in BATCHES:

            def make(size: tuple[int, ...] = (batch, ATTENTION_CHANNELS, side, side)) -> tuple[Tensor]:
                x = torch.randn(size, device=gpu_checks.DEVICE, dtype=torch.bfloat16)
                return (x.contiguous(memory_format=torch.channels_last),)

            calls: dict[str, Callable[..., Any]] = {"eager": block, "inductor": compiled}
            calls["merged"] = lambda x, b=block, m=merged: fused_attention(
                x, b, m, torch.ops.scoresde_fast_reference.group_norm_attention.default
            )
            for backend, function in present("group_norm_attention"):
                calls[backend] = lambda x, b=block, m=merged, f=function: fused_attention(x, b, m, f)
            with torch.inference_mode():
                seconds = gpu_seconds(calls, rotation(make, 16), rounds=20)
            case: dict[str, Any] = {f"{name}_us": round(1e6 * value, 2) for name, value in seconds.items()}
            best = min(seconds["merged"], *(seconds[backend] for backend, _ in present("group_norm_attention")))
            cases[f"{side}x{side} batch {batch}"] = case | {"against_eager": round(seconds["eager"] / best, 2)}
    return {
        "row 12: 16x16, largest batch, against four projections + SDPA (floor 1.3, goal 2)": cases[
            f"16x16 batch {BATCHES[-1]}"
        ]["against_eager"],
        "cases": cases,
    }


def convolution_rows(peak: float) -> dict[str, Any]:
    """The convolutions that hold most of the work, with bias and join, in bf16 channels_last: cuDNN, the compiler's
    templates and every tile of our kernel, against the matrix peak; what to write into the tables of both.

    A shape belongs to FASTER_FUSED where the tile that the kernel chooses by itself wins at every batch.
    """
    begin, errors = time.perf_counter(), gpu_checks.Errors()
    cases: dict[str, Any] = {}
    faster, tiles, left_out = [], {}, []
    for network, (count, batches) in CONVOLUTIONS.items():
        for (channels, height, width), (outputs, side) in heaviest_convolutions(network, count):
            title, won = f"{side}x{side} {channels} to {outputs} @{height}x{width}", []
            if time.perf_counter() - begin > CONVOLUTION_SECONDS:
                left_out.append(title)
                continue
            for batch in batches:
                label = f"{title} batch {batch}"
                seconds, chosen = _convolution_case(batch, (channels, height, width), (outputs, side), errors)
                others = min(seconds["cudnn"], seconds["inductor"])
                best = min(seconds.keys() - {"cudnn", "inductor"}, key=lambda name: seconds[name])
                won.append(seconds[chosen] < others)
                if seconds[best] < 0.97 * seconds[chosen]:
                    tiles[label] = f"{best} before {chosen}"
                work = 2 * batch * height * width * channels * outputs * side**2 / 1e12
                cases[label] = {f"{name} TFLOP/s": round(work / value, 1) for name, value in seconds.items()} | {
                    f"{name} share_of_peak": round(work / value / peak, 3) for name, value in seconds.items()
                }
                cases[label]["against_best_other"] = round(others / seconds[best], 3)
            if all(won):
                faster.append((height * width, channels, outputs, side))
    return errors.summary() | {
        "FASTER_FUSED": faster,
        "tiles to prefer": tiles,
        "left out for time": left_out,
        "cases": cases,
    }


def _convolution_case(
    batch: int, shape: tuple[int, int, int], form: tuple[int, int], errors: gpu_checks.Errors
) -> tuple[dict[str, float], str]:
    """(seconds by name, the name of the tile that the kernel chooses); each tile is checked on two of the images."""
    side, half = form[1], torch.bfloat16
    first, weight, bias, residual, scale = gpu_checks.convolution_case(batch, shape, form, half)

    def plain(x: Tensor, residual: Tensor) -> Tensor:
        return torch.add(F.conv2d(x, weight, bias.to(half), padding=side // 2), residual, alpha=scale)

    def make() -> tuple[Tensor, Tensor]:
        x, _, _, residual, _ = gpu_checks.convolution_case(batch, shape, form, half)
        return x, residual

    torch._dynamo.reset()  # shapes beyond its limit of recompilations would run uncompiled, without a word
    calls: dict[str, Callable[..., Any]] = {"cudnn": plain}
    calls["inductor"] = torch.compile(plain, dynamic=False, mode="max-autotune-no-cudagraphs")
    two = (first[:2], weight, bias, residual[:2], scale)
    exact = convolution.reference(*(t.double() if isinstance(t, Tensor) else t for t in two))
    for tile in convolution_kernels.candidates(shape[0], form[0], 2, False):
        calls[_name(tile)] = lambda x, residual, tile=tile: convolution_kernels.convolution(
            x, weight, bias, residual, scale, tile=tile
        )
        errors.see(f"tile {_name(tile)}", calls[_name(tile)](two[0], two[3]), convolution.reference(*two), exact)
    pixels = batch * shape[1] * shape[2]
    chosen = _name(convolution_kernels.choose_tile(pixels, shape[0], form[0], 2, False))
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
        return gpu_seconds(calls, rotation(make, 16), rounds=20), chosen


def _name(tile: convolution_kernels.Tile) -> str:
    return f"{tile.m}x{tile.n}x{tile.c}"
