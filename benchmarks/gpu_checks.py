# SPDX-License-Identifier: Apache-2.0
"""Correctness on a GPU: every operation on every backend against float64, and the noise against the CPU's.

A part returns {"passed": bool, "worst": ..., ...}.  The rule is the tests': an error of at most twice the same-dtype
reference's, plus one unit in the last place of the largest value.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from distribution import NormalCheck
from network_shapes import BATCHES, shapes
from torch import Tensor

from scoresde_fast.networks.blocks import AttentionBlock
from scoresde_fast.ops import (
    affine_step,
    affine_step_pair,
    hutchinson_dot,
    langevin_norms,
    langevin_step,
    operations,
    project,
)
from scoresde_fast.ops import group_norm_attention as attention
from scoresde_fast.ops.fir_resample import fir_resample
from scoresde_fast.ops.normal import normal
from scoresde_fast.ops.project import LEVEL_WIDTH
from scoresde_fast.ops.rademacher import rademacher
from scoresde_fast.ops.step_table import PAIR_WIDTH, WIDTH, DeviceTable

#: Where everything runs; a test puts it on a CPU, where Triton's interpreter stands in.
DEVICE = "cuda"
SEED = 0xFEDCBA9876543210
DRAWS = 10**9
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TAPS = (1.0, 3.0, 3.0, 1.0)
ATTENTION = (((256, 16), (256, 8), (256, 4), (128, 16)), (1, 16, 256))
STATES = {"CIFAR-10": ((3, 32, 32), (1, 16, 256)), "FFHQ-256": ((3, 256, 256), (1, 8)), "odd": ((3, 7, 5), (3,))}


class Errors:
    """The worst of error / allowed error over many comparisons, by label."""

    def __init__(self) -> None:
        self.worst: dict[str, float] = {}

    def see(self, label: str, result: Tensor, reference: Tensor, truth: Tensor) -> None:
        """Compare; NaN counts as infinitely wrong."""
        if truth.numel() == 0:
            return
        ulp = truth.abs().max() * torch.finfo(result.dtype).eps
        allowed = 2 * (reference.double() - truth).abs().max() + ulp
        ratio = ((result.double() - truth).abs().max() / allowed).item()
        self.worst[label] = max(self.worst.get(label, 0.0), ratio if ratio == ratio else float("inf"))

    def summary(self) -> dict[str, Any]:
        """What the part reports: whether all passed, and the worst ratio of each label."""
        return {
            "passed": bool(self.worst) and all(ratio <= 1 for ratio in self.worst.values()),
            "worst": {label: round(ratio, 3) for label, ratio in sorted(self.worst.items())},
        }


def present(name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The backends of an operation that run on this GPU."""
    for backend, found in operations[name].backends.items():
        if found.refusal(DEVICE, by_name=True) is None:
            yield backend, found.function


def noise() -> dict[str, Any]:
    """Signs equal to the CPU's bit for bit, precise normals within 3 ulp, and 10^9 fast ones standard normal.

    Triton's form is exactly 2 ulp from the CPU's in 3 of 160,004 values, so that a bound of 2 would hang on rounding.
    """
    ids = torch.tensor([0, 7, 2**40 + 3, 2**63 - 1])
    result: dict[str, Any] = {"passed": True}
    on_cpu = rademacher(ids, SEED, 2**32 - 1, (40_001,)), normal(ids, SEED, 5, (40_001,))
    unit = torch.nextafter(on_cpu[1].abs(), torch.tensor(9.0)) - on_cpu[1].abs()
    for backend, function in present("rademacher"):
        equal = torch.equal(
            rademacher(ids.to(DEVICE), SEED, 2**32 - 1, (40_001,), implementation=function).cpu(), on_cpu[0]
        )
        result[f"{backend}: sign bits equal"] = equal
        result["passed"] &= equal
    for backend, function in present("normal"):
        for form, precise in (("precise", True), ("fast", False)):
            field = normal(ids.to(DEVICE), SEED, 5, (40_001,), precise=precise, implementation=function).cpu()
            result[f"{backend}: {form} ulp"] = round(((field - on_cpu[1]).abs() / unit).max().item(), 2)
            result[f"{backend}: {form} error"] = (field - on_cpu[1]).abs().max().item()
        result["passed"] &= result[f"{backend}: precise ulp"] <= 3
        check = NormalCheck()
        for draw in range(DRAWS // 10**8):
            check.add(normal(torch.arange(100, device=DEVICE), 3, draw, (1_000_000,), implementation=function))
        deviations = check.deviations()
        result[f"{backend}: {check.count} draws"] = {"kolmogorov_smirnov": check.kolmogorov_smirnov(), **deviations}
        result["passed"] &= max(map(abs, deviations.values())) < 5 and check.kolmogorov_smirnov() < 1.95
    return result


def _table(width: int) -> DeviceTable:
    generator = torch.Generator().manual_seed(0)
    control = torch.tensor([[-1, 0, 0], [5, 1, 1], [2**31 - 1, 7, 1]], dtype=torch.int32, device=DEVICE)
    coefficients = torch.randn(3, width, generator=generator).to(DEVICE)
    if width == WIDTH:
        coefficients[:, -1] = 0.05
    return DeviceTable(coefficients, control)


def steps() -> dict[str, Any]:
    """The step operations, in every form that solvers use, over states of CIFAR-10 and FFHQ-256."""
    errors = Errors()
    for label, (shape, batches) in STATES.items():
        for batch in batches:
            for dtype in DTYPES:
                _affine(errors, label, batch, shape, dtype)
                _reductions(errors, label, batch, shape, dtype)
            _projections(errors, label, batch, shape)
    return errors.summary()


def _affine(errors: Errors, label: str, batch: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    ids = torch.arange(batch, device=DEVICE) + 2**35
    forms: tuple[dict[str, Any], ...] = (
        {"sample_ids": ids},
        {"saved": True, "history": True, "earlier": 2, "sample_ids": ids},
        {},
    )
    for module, width, halves in ((affine_step, WIDTH, 1), (affine_step_pair, PAIR_WIDTH, 2)):
        name = module.__name__.rpartition(".")[2]
        table, step = _table(width), getattr(module, name)
        whole = (batch, halves * shape[0], *shape[1:])
        registers = [torch.randn(whole, device=DEVICE), torch.randn(whole, device=DEVICE),
                     torch.randn(2, *whole, device=DEVICE)]  # fmt: skip
        output = torch.randn(batch, *shape, device=DEVICE).to(dtype)
        for row, form in enumerate(forms):
            results = {}
            choices = {"exact": operations[name].reference, "plain": operations[name].reference, **dict(present(name))}
            for choice, implementation in choices.items():
                wide = torch.float64 if choice == "exact" else torch.float32
                state, saved, history = (register.to(wide, copy=True) for register in registers)
                given = {"saved": saved, "history": history}
                options = {k: given[k] if v is True else v for k, v in form.items()}
                step(state, table, row, network_output=output, run_seed=SEED, precise=True,
                     implementation=implementation, **options)  # fmt: skip
                results[choice] = (state, saved, history)
            for choice in list(choices)[2:]:
                for ours, plain, exact in zip(results[choice], results["plain"], results["exact"], strict=True):
                    errors.see(f"{name} {choice} {label} {str(dtype)[6:]}", ours, plain, exact)


def _reductions(errors: Errors, label: str, batch: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    ids, table = torch.arange(batch, device=DEVICE), _table(WIDTH)
    output, state = torch.randn(batch, *shape, device=DEVICE).to(dtype), torch.randn(batch, *shape, device=DEVICE)
    plain_norms = operations["langevin_norms"].reference
    exact = langevin_norms.langevin_norms(output.double(), ids, table, 1, implementation=plain_norms)
    plain = langevin_norms.langevin_norms(output, ids, table, 1, implementation=plain_norms)
    suffix = f"{label} {str(dtype)[6:]}"
    for backend, function in present("langevin_norms"):
        ours = langevin_norms.langevin_norms(output, ids, table, 1, precise=True, implementation=function)
        errors.see(f"langevin_norms {backend} {suffix}", ours, plain, exact)
    for per_sample in ("sample", "batch"):
        steps = {}
        choices = [("exact", operations["langevin_step"].reference), ("plain", operations["langevin_step"].reference)]
        for choice, function in [*choices, *present("langevin_step")]:
            wide = torch.float64 if choice == "exact" else torch.float32
            steps[choice] = state.to(wide, copy=True)
            langevin_step.langevin_step(
                steps[choice], output if choice != "exact" else output.double(), exact.to(wide), ids, table, 1,
                norm=per_sample, precise=True, implementation=function,
            )  # fmt: skip
            if choice not in ("exact", "plain"):
                errors.see(f"langevin_step {choice} {suffix}", steps[choice], steps["plain"], steps["exact"])
    coefficients = torch.tensor([[-3.0, 0.5]], device=DEVICE)
    for probe in ("rademacher", "normal"):
        sums = {}
        choices = [("exact", operations["hutchinson_dot"].reference), ("plain", operations["hutchinson_dot"].reference)]
        for choice, function in [*choices, *present("hutchinson_dot")]:
            sums[choice] = torch.zeros(batch, dtype=torch.float64, device=DEVICE)
            tangent = output.double() if choice == "exact" else output
            hutchinson_dot.hutchinson_dot(sums[choice], tangent, ids, coefficients, probe=probe, precise=True,
                                          implementation=function)  # fmt: skip
            if choice not in ("exact", "plain"):
                # The sums cancel: the allowance is that of float32 products of this many terms.
                scale = output.double().abs().flatten(1).sum(1).max() * 5e-7
                error = (sums[choice] - sums["exact"]).abs().max() / scale
                key = f"hutchinson_dot {choice} {suffix}"
                errors.worst[key] = max(errors.worst.get(key, 0.0), error.item())


def _projections(errors: Errors, label: str, batch: int, shape: tuple[int, ...]) -> None:
    """Pixels, gray and averages over 2x2, of images and of pairs."""
    ids, table = torch.arange(batch, device=DEVICE), _table(LEVEL_WIDTH)
    choices = [("exact", operations["project"].reference), ("plain", operations["project"].reference)]
    for block in ((1, 1, 1), (shape[0], 1, 1), (1, 2, 2)):
        if any(whole % part for whole, part in zip(shape, block, strict=True)):
            continue
        known = torch.rand(batch, *(whole // part for whole, part in zip(shape, block, strict=True)), device=DEVICE)
        for pairs in (False, True):
            state, results = torch.randn(batch, (1 + pairs) * shape[0], *shape[1:], device=DEVICE), {}
            for choice, function in [*choices, *present("project")]:
                wide = torch.float64 if choice == "exact" else torch.float32
                results[choice] = state.to(wide, copy=True)
                project.project(results[choice], known.to(wide), known < 0.6, ids, table, 1, pairs=pairs,
                                run_seed=SEED, precise=True, implementation=function)  # fmt: skip
                if choice not in ("exact", "plain"):
                    key = f"project {choice} {label} {'x'.join(map(str, block))}"
                    errors.see(key, results[choice], results["plain"], results["exact"])


def _layouts(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "channels_last", x.contiguous(memory_format=torch.channels_last)
    yield "NCHW", x.contiguous()


def _cases(operation: str) -> Iterator[tuple[str, int, tuple[int, ...], str, torch.dtype]]:
    """(network, batch, (C, H, W), form, dtype) of an operation; all dtypes at the middle batch, bf16 at the others."""
    for network, found in shapes(operation).items():
        for shape, form in found:
            for index, batch in enumerate(BATCHES[network]):
                for dtype in DTYPES if index == 1 and network != "FFHQ-256" else (torch.bfloat16,):
                    yield network, batch, shape, form, dtype


def group_norm_silu() -> dict[str, Any]:
    """Forward over every shape of the networks, with shift, with residual and with both resamplings."""
    errors = Errors()
    for network, batch, (channels, *size), form, dtype in _cases("group_norm_silu"):
        for layout, x in _layouts(torch.randn(batch, channels, *size, device=DEVICE).to(dtype) * 2 + 0.5):
            if layout == "NCHW" and (batch == 1 or network == "FFHQ-256"):
                continue
            weight, bias = torch.randn(2, channels, device=DEVICE).to(dtype)
            shift = torch.randn(batch, channels, device=DEVICE).to(dtype) if form else None
            residual = None if form else torch.randn_like(x)
            groups = min(channels // 4, 32)
            for resample in ("none", "up", "down") if batch == 16 and dtype == torch.bfloat16 else ("none",):
                rest = (0.5, True, resample, TAPS)
                arguments = (x, weight, bias, groups, 1e-6, shift, residual, *rest)
                plain = torch.ops.scoresde_fast_reference.group_norm_silu(*arguments)
                # What the norm sees is the rounded sum; float64 is told so by being given that sum.
                h = plain[1].double() if residual is not None else x.double()
                wide = (h, weight.double(), bias.double(), groups, 1e-6, None if shift is None else shift.double())
                scale = 1.0 if residual is not None else 0.5
                exact = torch.ops.scoresde_fast_reference.group_norm_silu(*wide, None, scale, True, resample, TAPS)
                for backend, function in present("group_norm_silu"):
                    ours = function(*arguments)
                    errors.see(f"{backend} {network} {layout} {str(dtype)[6:]} {resample}", ours[0], plain[0], exact[0])
    return errors.summary()


def convolution_case(
    batch: int, shape: tuple[int, ...], form: tuple[int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """The arguments of a convolution in channels_last, with bias and residual."""
    (channels, height, width), (outputs, side) = shape, form

    def normal(*size: int) -> Tensor:
        return torch.randn(size, device=DEVICE, dtype=dtype).contiguous(memory_format=torch.channels_last)

    x, residual = normal(batch, channels, height, width), normal(batch, outputs, height, width)
    weight = normal(outputs, channels, side, side) * (0.5 / (channels * side * side)) ** 0.5
    return x, weight, torch.randn(outputs, device=DEVICE), residual, 0.5**0.5


def convolutions() -> dict[str, Any]:
    """The kernels over every shape of the networks; all dtypes on every fourth, for each is compiled."""
    errors, checked = Errors(), set()
    for network, found in shapes("convolution").items():
        for index, (shape, form) in enumerate(found):
            batch = 1 if network == "FFHQ-256" else BATCHES[network][1]
            for dtype in DTYPES if index % 4 == 0 else (torch.bfloat16,):
                if (batch, shape, form, dtype) in checked:
                    continue
                checked.add((batch, shape, form, dtype))
                x, weight, bias, residual, scale = convolution_case(batch, shape, form, dtype)
                plain = torch.ops.scoresde_fast_reference.convolution(x, weight, bias, residual, scale)
                wide = (x.double(), weight.double(), bias.double(), residual.double())
                exact = torch.ops.scoresde_fast_reference.convolution(*wide, scale)
                for backend, function in present("convolution"):
                    ours = function(x, weight, bias, residual, scale)
                    errors.see(f"{backend} {network} {form[1]}x{form[1]} {str(dtype)[6:]}", ours, plain, exact)
    return errors.summary()


def fir() -> dict[str, Any]:
    """Both directions over every shape of the networks."""
    errors = Errors()
    for network, batch, shape, direction, dtype in _cases("fir_resample"):
        for layout, x in _layouts(torch.randn(batch, *shape, device=DEVICE).to(dtype)):
            arguments = (list(TAPS), direction, 1 if direction == "up" else 2, 4.0 if direction == "up" else 1.0)
            exact = fir_resample(x.double(), TAPS, direction)
            plain = torch.ops.scoresde_fast_reference.fir_resample(x, *arguments)
            for backend, function in present("fir_resample"):
                errors.see(f"{backend} {network} {layout} {str(dtype)[6:]}", function(x, *arguments), plain, exact)
    return errors.summary()


def random_attention(channels: int, dtype: torch.dtype) -> tuple[AttentionBlock, attention.MergedAttention]:
    """A block in ``dtype`` with random weights and biases, and its projections merged."""
    torch.manual_seed(channels)
    block = AttentionBlock(channels, init_scale=1.0, skip_rescale=True).to(DEVICE).eval().requires_grad_(False)
    for parameter in block.parameters():
        parameter.normal_(std=channels**-0.5)
    block.norm.weight += 1
    block = block.to(dtype)
    query, key, value, out = block.query, block.key, block.value, block.out
    merged = attention.merge_attention(query.W, query.b, key.W, value.W, value.b, out.W, out.b, dtype)
    return block, merged


def attention_block() -> dict[str, Any]:
    """The fused attention block against the plain block of four projections in float64."""
    errors = Errors()
    sizes, batches = ATTENTION
    for channels, side in sizes:
        for batch in batches:
            for dtype in (torch.bfloat16, torch.float16):
                block, merged = random_attention(channels, dtype)
                x = torch.randn(batch, channels, side, side, device=DEVICE).to(dtype)
                x = x.contiguous(memory_format=torch.channels_last)
                with torch.inference_mode():
                    plain, exact = block(x), copy.deepcopy(block).double()(x.double())
                    for backend, function in present("group_norm_attention"):
                        ours = fused_attention(x, block, merged, function)
                        errors.see(f"{backend} {channels}@{side}x{side} {str(dtype)[6:]}", ours, plain, exact)
    return errors.summary()


def fused_attention(
    x: Tensor, block: AttentionBlock, merged: attention.MergedAttention, function: Callable[..., Tensor]
) -> Tensor:
    """The block by one implementation of the fused operation."""
    norm_ = block.norm
    return attention.group_norm_attention(
        x, norm_.weight, norm_.bias, norm_.num_groups, norm_.eps, merged, 2**-0.5, implementation=function
    )
