# SPDX-License-Identifier: Apache-2.0
"""GPU checks against float64 of the networks' operations and of a whole folded and captured network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from benchmarks.kernels.shapes import BATCHES, shapes
from benchmarks.visit import common
from benchmarks.visit.common import DTYPES, Errors, present
from benchmarks.visit.report import Report
from scoresde_fast.devices import arithmetic
from scoresde_fast.loop.capture import GraphCapture
from scoresde_fast.loop.evaluator import evaluator
from scoresde_fast.networks.blocks import AttentionBlock
from scoresde_fast.ops import group_norm_attention
from scoresde_fast.ops.fir_resample import fir_resample
from scoresde_fast.ops.group_norm_silu import group_norm_silu

TAPS = (1.0, 3.0, 3.0, 1.0)
ATTENTION = tuple(((channels, side), batch) for channels, side in ((256, 16), (256, 8), (256, 4), (128, 16))
                  for batch in (1, 16, 256))  # fmt: skip
AUTOCAST_MULTIPLE = 1.5
"""Allowed error of the bfloat16 network, as a multiple of the error of PyTorch's autocast."""
Case = tuple[str, int, tuple[int, ...], Any, torch.dtype]
"""Network, batch size, (C, H, W), form and dtype of an operation."""


def cases(operation: str) -> Iterator[Case]:
    """Yield all cases of an operation: bfloat16 and, at the middle batch size for CIFAR-10, the other dtypes too."""
    for network, calls in shapes(operation).items():
        for shape, form in calls:
            for index, batch in enumerate(BATCHES[network]):
                for dtype in DTYPES if index == 1 and network != "FFHQ-256" else (torch.bfloat16,):
                    yield network, batch, shape, form, dtype


def _layouts(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "channels_last", x.contiguous(memory_format=torch.channels_last)
    yield "NCHW", x.contiguous()


def norms(report: Report, chosen: Iterable[Case] | None = None) -> None:
    """Check y, h and the statistics in every shape, with shift or residual, and also with resampling."""
    errors = Errors()
    reference = torch.ops.scoresde_fast_reference.group_norm_silu
    for network, batch, (channels, *size), form, dtype in chosen or cases("group_norm_silu"):
        x = torch.randn(batch, channels, *size, device=common.DEVICE).to(dtype) * 2 + 0.5
        for layout, image in _layouts(x):
            if layout == "NCHW" and (batch == 1 or network == "FFHQ-256"):
                continue
            weight, bias = torch.randn(2, channels, device=common.DEVICE).to(dtype)
            shift = torch.randn(batch, channels, device=common.DEVICE).to(dtype) if form else None
            residual = None if form else torch.randn_like(image)
            groups = min(channels // 4, 32)
            for resample in ("none", "up", "down") if batch == 16 and dtype == torch.bfloat16 else ("none",):
                arguments = (image, weight, bias, groups, 1e-6, shift, residual, 0.5, True, resample, TAPS)
                plain = reference(*arguments)
                # The float64 norm, too, is computed from the rounded sum.
                h = image.double() if residual is None else plain[1].double()
                wide = (h, weight.double(), bias.double(), groups, 1e-6, None if shift is None else shift.double())
                exact = reference(*wide, None, 0.5 if residual is None else 1.0, True, resample, TAPS)
                joined = None if residual is None else (image.double() + residual.double()) * 0.5
                for backend, function in present("group_norm_silu"):
                    y, ours, statistics = function(*arguments)
                    label = f"{backend} {network} {layout} {str(dtype)[6:]} {resample}"
                    errors.compare(label, y, plain[0], exact[0])
                    errors.compare(f"{backend} statistics {str(dtype)[6:]}", statistics, plain[2], exact[2])
                    if joined is not None:
                        errors.compare(f"{backend} h {str(dtype)[6:]}", ours, plain[1], joined)
    errors.report_to(report)


def filters(report: Report, chosen: Iterable[Case] | None = None) -> None:
    """Check the FIR filters in both directions in every shape."""
    errors = Errors()
    for network, batch, shape, direction, dtype in chosen or cases("fir_resample"):
        for layout, x in _layouts(torch.randn(batch, *shape, device=common.DEVICE).to(dtype)):
            arguments = (list(TAPS), direction, 1 if direction == "up" else 2, 4.0 if direction == "up" else 1.0)
            exact = fir_resample(x.double(), TAPS, direction)
            with arithmetic("fp32", torch.device(common.DEVICE)):
                plain = torch.ops.scoresde_fast_reference.fir_resample(x, *arguments)
            for backend, function in present("fir_resample"):
                errors.compare(f"{backend} {network} {layout} {str(dtype)[6:]}", function(x, *arguments), plain, exact)
    errors.report_to(report)


def convolution_case(
    batch: int, shape: tuple[int, ...], form: tuple[int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """Return the arguments of a convolution in channels_last, with bias and residual."""
    (channels, height, width), (outputs, side) = shape, form

    def normal(*size: int) -> Tensor:
        values = torch.randn(size, device=common.DEVICE, dtype=dtype)
        return values.contiguous(memory_format=torch.channels_last)

    x, residual = normal(batch, channels, height, width), normal(batch, outputs, height, width)
    weight = normal(outputs, channels, side, side) * (0.5 / (channels * side * side)) ** 0.5
    return x, weight, torch.randn(outputs, device=common.DEVICE), residual, 0.5**0.5


def convolution_cases() -> Iterator[Case]:
    """Yield each convolution once, at one batch size; every fourth in all dtypes, the others in bfloat16."""
    seen = set()
    for network, calls in shapes("convolution").items():
        for index, (shape, form) in enumerate(calls):
            batch = 1 if network == "FFHQ-256" else BATCHES[network][1]
            for dtype in DTYPES if index % 4 == 0 else (torch.bfloat16,):
                if (batch, shape, form, dtype) not in seen:
                    seen.add((batch, shape, form, dtype))
                    yield network, batch, shape, form, dtype


def convolutions(report: Report, chosen: Iterable[Case] | None = None) -> None:
    """Check the kernels in every shape; those of float32 also in TF32, compared with cuDNN's TF32."""
    errors, device = Errors(), torch.device(common.DEVICE)
    reference = torch.ops.scoresde_fast_reference.convolution
    for network, batch, shape, form, dtype in chosen or convolution_cases():
        x, weight, bias, residual, scale = convolution_case(batch, shape, form, dtype)
        exact = reference(x.double(), weight.double(), bias.double(), residual.double(), scale)
        for precision in ("fp32", "tf32") if dtype == torch.float32 else ("fp32",):
            with arithmetic(precision, device):  # a TF32 reference for fp32 would allow twice the error of TF32
                plain = reference(x, weight, bias, residual, scale)
                for backend, function in present("convolution"):
                    ours = function(x, weight, bias, residual, scale, precision == "tf32")
                    kind = precision if dtype == torch.float32 else str(dtype)[6:]
                    errors.compare(f"{backend} {network} {form[1]}x{form[1]} {kind}", ours, plain, exact)
    errors.report_to(report)


def random_attention(channels: int, dtype: torch.dtype) -> tuple[AttentionBlock, group_norm_attention.MergedAttention]:
    """Return an attention block in ``dtype`` with random weights and biases, and its merged projections."""
    torch.manual_seed(channels)
    block = AttentionBlock(channels, init_scale=1.0, skip_rescale=True).to(common.DEVICE)
    block = block.eval().requires_grad_(False)
    for parameter in block.parameters():
        parameter.normal_(std=channels**-0.5)
    block.norm.weight.add_(1)
    block = block.to(dtype)
    query, key, value, out = block.query, block.key, block.value, block.out
    merged = group_norm_attention.merge_attention(query.W, query.b, key.W, value.W, value.b, out.W, out.b, dtype)
    return block, merged


def attention(report: Report, chosen: Iterable[tuple[tuple[int, int], int]] | None = None) -> None:
    """Check the fused attention block against the block of four projections in float64."""
    errors = Errors()
    for (channels, side), batch in chosen or ATTENTION:
        for dtype in (torch.bfloat16, torch.float16):
            block, merged = random_attention(channels, dtype)
            x = torch.randn(batch, channels, side, side, device=common.DEVICE).to(dtype)
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                plain, exact = block(x), copy.deepcopy(block).double()(x.double())
                for backend, function in present("group_norm_attention"):
                    ours = fused_attention(x, block, merged, function)
                    errors.compare(f"{backend} {channels}@{side}x{side} {str(dtype)[6:]}", ours, plain, exact)
    errors.report_to(report)


def fused_attention(
    x: Tensor, block: AttentionBlock, merged: group_norm_attention.MergedAttention, function: Callable[..., Tensor]
) -> Tensor:
    """Run the block with one implementation of the fused operation."""
    norm = block.norm
    return group_norm_attention.group_norm_attention(
        x, norm.weight, norm.bias, norm.num_groups, norm.eps, merged, 2**-0.5, implementation=function
    )


def derivatives(report: Report) -> None:
    """Check autograd gradients and tangents of the norm and the filters against float64."""
    errors = Errors()
    for operation, shape in common.sizes.derivatives:
        for dtype in (torch.float32, torch.bfloat16):
            for layout, x in _layouts(torch.randn(shape, device=common.DEVICE).to(dtype)):
                ours, plain = _operation(operation, shape[1]), _reference(operation, shape[1])
                label = f"{operation} {layout} {str(dtype)[6:]}"
                for kind, of in (("gradient", _gradient), ("tangent", _tangent)):
                    errors.compare(f"{kind} {label}", of(ours, x), of(plain, x), of(plain, x.double()))
    errors.report_to(report)


def _weight_and_bias(channels: int, x: Tensor) -> tuple[Tensor, Tensor]:
    weight = torch.linspace(0.5, 1.5, channels, dtype=torch.float64, device=x.device)
    return weight.to(x.dtype), (weight - 1).to(x.dtype)


def _operation(name: str, channels: int) -> Callable[[Tensor], Tensor]:
    """Return the operation as networks call it."""
    if name == "group_norm_silu":
        return lambda x: group_norm_silu(x, *_weight_and_bias(channels, x), min(channels // 4, 32))[0]
    return lambda x: fir_resample(x, TAPS, name.rpartition(" ")[2])  # type: ignore[arg-type]


def _reference(name: str, channels: int) -> Callable[[Tensor], Tensor]:
    """Return the same function of PyTorch operations."""
    if name == "group_norm_silu":
        groups = min(channels // 4, 32)
        norm, silu = torch.nn.functional.group_norm, torch.nn.functional.silu
        return lambda x: silu(norm(x.contiguous(), groups, *_weight_and_bias(channels, x), 1e-6))
    return lambda x: fir_resample(x.double(), TAPS, name.rpartition(" ")[2]).to(x.dtype)  # type: ignore[arg-type]


def _gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    y = function(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64, device=y.device).view(y.shape).to(y.dtype)
    return torch.autograd.grad(y, x, weights)[0]


def _tangent(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    direction = torch.linspace(-1, 1, x.numel(), dtype=torch.float64, device=x.device).view(x.shape).to(x.dtype)
    direction = torch.empty_like(x).copy_(direction)
    with torch.no_grad(), forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(function(forward_ad.make_dual(x, direction))).tangent
    assert tangent is not None
    return tangent


def network(report: Report) -> None:
    """Check the folded bfloat16 network, captured and replayed on another input, against the plain one in float64.

    Its RMS error may be at most `AUTOCAST_MULTIPLE` times that of the plain network under autocast to bfloat16.
    """
    errors, device = Errors(), torch.device(common.DEVICE)
    model = common.sizes.model().to(device)
    labels = torch.full((1,), 0.5, device=device)
    row = torch.zeros(1, dtype=torch.int64, device=device)
    first, second = torch.rand(2, common.sizes.check_batch, *model.state_shape, device=device)
    with torch.no_grad(), arithmetic("bf16", device):
        folded, x = evaluator(model.network, labels, "bf16"), first.clone()
        outputs: list[Tensor] = []

        def step() -> None:
            outputs[:] = [folded(x, row)]

        graphs = GraphCapture(model, device, wanted=True)
        replay = graphs.step(step)
        assert graphs.wanted, "the network could not be captured"
        x.copy_(second)
        replay()
        ours = outputs[0].double()
        batch = labels.expand(len(second))
        with torch.autocast(device.type, torch.bfloat16):
            half = model.network(second, batch).double()
        exact = copy.deepcopy(model.network).double()(second.double(), batch.double())
    results = {"ours": ours, "autocast": half}
    relative = {name: float((result - exact).norm() / exact.norm()) for name, result in results.items()}
    report.case("relative error", relative)
    errors.add("captured bfloat16", relative["ours"] / (AUTOCAST_MULTIPLE * relative["autocast"]))
    errors.report_to(report)
