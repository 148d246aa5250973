# SPDX-License-Identifier: Apache-2.0
"""GPU times of kernels, compared with well-written PyTorch code.

Each time is the median of interleaved replays. They alternate between up to 64 sets of inputs, so inputs are not in a
cache, except for the smallest shapes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from scoresde_fast.kernels import convolution as convolution_kernels
from torch import Tensor

from benchmarks.kernels.cpu import eager_langevin, eager_norm, eager_step, step_table
from benchmarks.kernels.shapes import heaviest_convolutions, shapes
from benchmarks.visit import common, network_checks
from benchmarks.visit.common import bandwidth, peak, present
from benchmarks.visit.network_checks import TAPS, fused_attention, random_attention
from benchmarks.visit.report import Report
from scoresde_fast.bench.timing import gpu_seconds, rotation
from scoresde_fast.ops.affine_step import affine_step
from scoresde_fast.ops.convolution import operation as convolution
from scoresde_fast.ops.step_table import DeviceTable

Calls = dict[str, Callable[..., Any]]
BATCHES = (1, 16, 256)
CHANNELS_384 = 384
"""A channel count with groups of 12 channels, which occupy 12 of 16 lanes."""
HEAVIEST_NORMS = 3
ATTENTION = (256, (16, 8, 4))
"""Channels, and sides of the images."""
CONVOLUTIONS = {"NCSN++": (9, (16, 256)), "FFHQ-256": (3, (1, 16))}
"""Number of convolutions and batch sizes for each network."""
NORM_SECONDS, CONVOLUTION_SECONDS = 25, 30
"""Time after which no new shape is started."""


def norms(report: Report) -> None:
    """Measure GroupNorm + SiLU in channels_last bf16, relative to copy bandwidth and to torch.compile.

    The largest shapes and one of 384 channels come first, then the others until the time limit.
    """
    distinct = {shape for shape, _ in shapes("group_norm_silu", lambda network: network == "NCSN++")["NCSN++"]}
    ordered = sorted(distinct, key=lambda shape: (-shape[0] * shape[1] * shape[2], shape))
    first = ordered[:HEAVIEST_NORMS] + [shape for shape in ordered if shape[0] == CHANNELS_384][:1]
    shares, ratios, slower, left_out = [], [], [], []
    begin = time.perf_counter()
    for shape in dict.fromkeys(first + ordered):
        channels, height, width = shape
        if time.perf_counter() - begin > NORM_SECONDS:
            left_out.append(f"{channels}@{height}x{width}")
            continue
        full = -(-common.sizes.state_bytes // (2 * channels * height * width))
        for batch in (full, *BATCHES):
            label = f"{channels}@{height}x{width} batch {batch}"
            case = _norm_case(batch, shape)
            report.case(label, case)
            if case["against_inductor"] < 1:
                slower.append(label)
            if batch == full:
                shares.append(case["ours GB/s"] / bandwidth(report))
                ratios.append(case["against_inductor"])
                report.case(label, {"share_of_copy": shares[-1]})
                report.target("norm bandwidth", min(shares))
                report.target("norm against inductor", min(ratios))
    report.figure("inductor wins on", slower)
    report.case("left out for time", dict.fromkeys(left_out, True))


def _norm_case(batch: int, shape: tuple[int, int, int]) -> dict[str, float]:
    torch.compiler.reset()  # otherwise shapes beyond the recompile limit would run uncompiled
    compiled = torch.compile(eager_norm, dynamic=False)
    channels, groups = shape[0], min(shape[0] // 4, 32)
    weight, bias = torch.randn(2, channels, device=common.DEVICE, dtype=torch.bfloat16)

    def make() -> tuple[Tensor]:
        x = torch.randn(batch, *shape, device=common.DEVICE, dtype=torch.bfloat16)
        return (x.contiguous(memory_format=torch.channels_last),)

    calls: Calls = {
        "eager": lambda x: eager_norm(x, weight, bias, groups),
        "inductor": lambda x: compiled(x, weight, bias, groups),
    }
    ours = dict(present("group_norm_silu"))
    for backend, function in ours.items():
        calls[backend] = lambda x, f=function: f(x, weight, bias, groups, 1e-6, None, None, 1.0, True, "none", TAPS)
    seconds = gpu_seconds(calls, rotation(make, 64), rounds=common.sizes.rounds)
    best = min(seconds[backend] for backend in ours)
    moved = 2 * 2 * batch * channels * shape[1] * shape[2]
    return _microseconds(seconds) | {"against_inductor": seconds["inductor"] / best, "ours GB/s": moved / best / 1e9}


def _microseconds(seconds: dict[str, float]) -> dict[str, float]:
    return {f"{name}_us": 1e6 * value for name, value in seconds.items()}


def steps(report: Report) -> None:
    """Measure the solver's step and the Langevin step on 256 MB of state and on a small batch of CIFAR-10 images."""
    table, copied = step_table(common.DEVICE), bandwidth(report)
    full, small = max(1, common.sizes.state_bytes // (4 * 3072)), common.sizes.step_batch
    for label, batch in (("256 MB", full), (f"batch {small}", small)):
        ids = torch.arange(batch, device=common.DEVICE)
        for dtype in (torch.float32, torch.bfloat16):
            for noisy in (True, False):
                calls = _step_calls(table, ids if noisy else None)
                inputs = rotation(_states(batch, dtype), 64)
                seconds = gpu_seconds(calls, inputs, rounds=common.sizes.rounds)
                moved = batch * 3072 * (8 + dtype.itemsize)
                shares = {f"{name} share_of_copy": moved / value / 1e9 / copied for name, value in seconds.items()}
                report.case(
                    f"{label} {str(dtype)[6:]} {'noise' if noisy else 'no noise'}", _microseconds(seconds) | shares
                )
                if label == "256 MB" and dtype == torch.float32 and noisy:
                    _step_figures(report, seconds, shares)
        case = _langevin_case(batch, ids, table, copied)
        report.case(f"{label} langevin", case)
        if label == "256 MB":
            report.target("Langevin bytes", case["bytes_over_least"])


def _step_figures(report: Report, seconds: dict[str, float], shares: dict[str, float]) -> None:
    best = min((backend for backend, _ in present("affine_step")), key=lambda backend: seconds[backend])
    report.target("step bandwidth", shares[f"{best} share_of_copy"])
    report.target("step against eager", seconds["eager"] / seconds[best])
    report.target("step against tl.randn", seconds["tl.randn"] / seconds[best])


def _states(batch: int, dtype: torch.dtype) -> Callable[[], tuple[Tensor, ...]]:
    def make() -> tuple[Tensor, ...]:
        x = torch.randn(batch, 3, 32, 32, device=common.DEVICE)
        return x, torch.randn_like(x).to(dtype)

    return make


def _step_calls(table: DeviceTable, ids: Tensor | None) -> Calls:
    def without_noise(x: Tensor, score: Tensor) -> Tensor:
        return 0.99 * x + 0.01 * score

    eager = without_noise if ids is None else eager_step
    calls: Calls = {"eager": eager, "inductor": torch.compile(eager, dynamic=False)}
    if ids is not None:
        calls["tl.randn"] = lambda x, score: randn_step(x, score, table.coefficients)
    for backend, function in present("affine_step"):
        calls[backend] = lambda x, score, f=function: affine_step(
            x, table, network_output=score, sample_ids=ids, implementation=f
        )
    return calls


@triton.jit
def randn_step_kernel(p_state, p_score, p_coefficients, elements, seed, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    inside = i < elements
    x = tl.load(p_state + i, mask=inside, other=0.0)
    score = tl.load(p_score + i, mask=inside, other=0.0).to(tl.float32)
    a, b, c = tl.load(p_coefficients), tl.load(p_coefficients + 2), tl.load(p_coefficients + 6)
    tl.store(p_state + i, a * x + b * score + c * tl.randn(seed, i), mask=inside)


def randn_step(state: Tensor, score: Tensor, coefficients: Tensor) -> None:
    """Set state to a * state + b * score + c * noise, with a, b, c from row 0 of an `affine_step` table."""
    elements = state.numel()
    randn_step_kernel[(triton.cdiv(elements, 1024),)](state, score, coefficients, elements, 7, BLOCK=1024)


def _langevin_case(batch: int, ids: Tensor, table: DeviceTable, copied: float) -> dict[str, Any]:
    calls: Calls = {"eager": eager_langevin, "inductor": torch.compile(eager_langevin, dynamic=False)}
    row = (ids, table.coefficients, table.control, None, 0)
    steps = dict(present("langevin_step"))
    for backend, function in present("langevin_norms"):

        def correct(x: Tensor, score: Tensor, norms_by: Any = function, step_by: Any = steps[backend]) -> None:
            norms = norms_by(score, *row, 0, False)
            step_by(x, score, norms, *row, False, 0, False)

        calls[backend] = correct
    seconds = gpu_seconds(calls, rotation(_states(batch, torch.float32), 64), rounds=common.sizes.rounds)
    best = min(seconds[backend] for backend in steps)
    # Only a profiler can count bytes; the bytes that a copy moves in this time are an upper bound.
    return _microseconds(seconds) | {
        "bytes_over_least": best * copied * 1e9 / (batch * 3072 * 12),
        "against_eager": seconds["eager"] / best,
    }


def attention(report: Report) -> None:
    """Measure the attention block in bf16 channels_last, relative to the plain block, eager and compiled."""
    channels, sides = ATTENTION
    for side in sides:
        block, merged = random_attention(channels, torch.bfloat16)
        for batch in reversed(BATCHES):
            torch.compiler.reset()  # as in `_norm_case`
            calls = _attention_calls(block, merged)

            def make(size: tuple[int, ...] = (batch, channels, side, side)) -> tuple[Tensor]:
                x = torch.randn(size, device=common.DEVICE, dtype=torch.bfloat16)
                return (x.contiguous(memory_format=torch.channels_last),)

            with torch.inference_mode():
                seconds = gpu_seconds(calls, rotation(make, 64), rounds=common.sizes.rounds)
            best = min(seconds.keys() - {"eager", "inductor"}, key=lambda name: seconds[name])
            ratios = {f"against_{name}": seconds[name] / seconds[best] for name in ("eager", "inductor")}
            report.case(f"{side}x{side} batch {batch}", _microseconds(seconds) | ratios | {"best": best})
            if (side, batch) == (sides[0], BATCHES[-1]):
                case = f"{side}x{side}, batch {batch}"
                report.target("attention against eager", ratios["against_eager"], case)
                report.target("attention against eager", ratios["against_inductor"], f"{case}, compiled")


def _attention_calls(block: Any, merged: Any) -> Calls:
    plain = torch.ops.scoresde_fast_reference.group_norm_attention.default
    calls: Calls = {"eager": block, "inductor": torch.compile(block, dynamic=False)}
    for name, function in (("merged", plain), *present("group_norm_attention")):
        calls[name] = lambda x, f=function: fused_attention(x, block, merged, f)
    return calls


def convolutions(report: Report) -> None:
    """Measure cuDNN and all tiles on the heaviest convolutions, with bias and residual, in bf16 channels_last.

    Reports the entries for FASTER_FUSED of `scoresde_fast.ops.convolution`: the shapes whose chosen tile is faster than
    cuDNN at every batch size.
    """
    begin, errors = time.perf_counter(), common.Errors()
    faster, tiles, left_out = [], {}, []
    for network, (count, batches) in CONVOLUTIONS.items():
        for (channels, height, width), (outputs, side) in _measured(network, count):
            title, won = f"{side}x{side} {channels} to {outputs} @{height}x{width}", []
            if time.perf_counter() - begin > CONVOLUTION_SECONDS:
                left_out.append(title)
                continue
            for batch in batches:
                label = f"{title} batch {batch}"
                seconds, chosen = _convolution_case(batch, (channels, height, width), (outputs, side), errors)
                best = min(seconds.keys() - {"cudnn"}, key=lambda name: seconds[name])
                won.append(seconds[chosen] < seconds["cudnn"])
                if seconds[best] < 0.97 * seconds[chosen]:
                    tiles[label] = f"{best} before {chosen}"
                work = 2 * batch * height * width * channels * outputs * side**2 / 1e12
                rates = {f"{name} TFLOP/s": work / value for name, value in seconds.items()}
                report.case(label, rates | {"against_cudnn": seconds["cudnn"] / seconds[best]})
                report.case(label, {"cudnn share_of_peak": work / seconds["cudnn"] / peak(report)})
            if all(won):
                faster.append((height * width, channels, outputs, side))
            report.figure("FASTER_FUSED", faster)
    report.case("tiles to prefer", tiles)
    report.case("left out for time", dict.fromkeys(left_out, True))
    errors.report_to(report)


def _measured(network: str, count: int) -> list[tuple[tuple[int, int, int], tuple[int, int]]]:
    """Return the heaviest convolutions and all 1x1 shortcuts, where fusing the residual sum saves most."""
    shortcuts = [case for case in shapes("convolution", lambda name: name == network)[network] if case[1][1] == 1]
    return list(dict.fromkeys([*heaviest_convolutions(network, count), *shortcuts]))


def usual_search(report: Report) -> None:
    """Measure cuDNN on the same convolutions with PyTorch's default search over ten algorithms.

    This is a separate item because PyTorch caches search results for the lifetime of a process.
    """
    count, batches = CONVOLUTIONS["NCSN++"]
    for shape, form in heaviest_convolutions("NCSN++", count):
        plain, make = _cudnn(batches[-1], shape, form)
        with torch.inference_mode(), _search(TEN):
            seconds = gpu_seconds({"cudnn": plain}, rotation(make, 64), rounds=common.sizes.rounds)
        work = 2 * batches[-1] * shape[1] * shape[2] * shape[0] * form[0] * form[1] ** 2 / 1e12
        title = f"{form[1]}x{form[1]} {shape[0]} to {form[0]} @{shape[1]}x{shape[2]} batch {batches[-1]}"
        report.case(title, {"cudnn TFLOP/s": work / seconds["cudnn"]})


ALL, TEN = 0, 10
"""Limits of cuDNN's search; 0 means all algorithms."""


def _search(limit: int) -> Any:
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, benchmark_limit=limit)


def _cudnn(
    batch: int, shape: tuple[int, int, int], form: tuple[int, int]
) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[], tuple[Tensor, Tensor]]]:
    """Return PyTorch's convolution with bias and residual, and a function that makes its inputs."""
    half = torch.bfloat16
    _, weight, bias, _, scale = network_checks.convolution_case(batch, shape, form, half)

    def plain(x: Tensor, residual: Tensor) -> Tensor:
        return torch.add(F.conv2d(x, weight, bias.to(half), padding=form[1] // 2), residual, alpha=scale)

    def make() -> tuple[Tensor, Tensor]:
        x, _, _, residual, _ = network_checks.convolution_case(batch, shape, form, half)
        return x, residual

    return plain, make


def _convolution_case(
    batch: int, shape: tuple[int, int, int], form: tuple[int, int], errors: common.Errors
) -> tuple[dict[str, float], str]:
    """Check each tile on two of the images; return the seconds by name, and the name of the chosen tile."""
    plain, make = _cudnn(batch, shape, form)
    first, weight, bias, residual, scale = network_checks.convolution_case(batch, shape, form, torch.bfloat16)
    calls: Calls = {"cudnn": plain}
    two = (first[:2], weight, bias, residual[:2], scale)
    exact = convolution.reference(*(t.double() if isinstance(t, Tensor) else t for t in two))
    for tile in convolution_kernels.candidates(shape[0], form[0], 2, False):
        calls[_name(tile)] = lambda x, residual, tile=tile: convolution_kernels.convolution(
            x, weight, bias, residual, scale, tile=tile
        )
    pixels = batch * shape[1] * shape[2]
    chosen = _name(convolution_kernels.choose_tile(pixels, shape[0], form[0], 2, False))
    with torch.inference_mode(), _search(ALL):
        seconds = gpu_seconds(calls, rotation(make, 64), rounds=common.sizes.rounds)
    # The reference runs last: it uses cuDNN, and PyTorch would cache the algorithm that it selects without a search.
    for name in seconds.keys() - {"cudnn"}:
        errors.compare(f"tile {name}", calls[name](two[0], two[3]), convolution.reference(*two), exact)
    return seconds, chosen


def _name(tile: convolution_kernels.Tile) -> str:
    return f"{tile.m}x{tile.n}x{tile.c}"
