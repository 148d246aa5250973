# SPDX-License-Identifier: Apache-2.0
"""The operation ``group_norm_attention``: every backend against the unmerged float64 block, gradients, bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde_fast.networks.blocks import AttentionBlock
from scoresde_fast.ops.group_norm_attention import (
    FASTER_FUSED,
    MergedAttention,
    group_norm_attention,
    merge_attention,
    operation,
)
from scoresde_fast.ops.registration import INTERPRETED
from tests.support.steps import backends, opcheck

FORMATS = [torch.contiguous_format, torch.channels_last]
SHAPES = [(5, 32, 4, 4), (2, 64, 8, 8), (2, 48, 5, 7), (3, 96, 4, 2), (2, 16, 1, 1), (1, 64, 16, 16), (1, 32, 12, 12)]
# In float32 the kernel's tiles are small: the interpreter takes seconds for images of many tiles.
CASES = [(shape, dtype) for shape in SHAPES[:5] for dtype in (torch.float32, torch.bfloat16, torch.float16)]
CASES += [(shape, dtype) for shape in SHAPES[5:] for dtype in (torch.bfloat16, torch.float16)]

pytestmark = pytest.mark.usefixtures("poisoned")
needs_interpreter = pytest.mark.skipif(not INTERPRETED, reason="TRITON_INTERPRET=1 was not set before the import")


@pytest.fixture(params=["reference", *backends(operation)])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that is present here."""
    return str(request.param)


def make_block(channels: int, *, rescale: bool = True) -> AttentionBlock:
    """Return a float64 block; its random weights and biases are so large that the softmax is far from uniform."""
    generator = torch.Generator().manual_seed(channels)
    block = AttentionBlock(channels, init_scale=1.0, skip_rescale=rescale).double().requires_grad_(False)
    for parameter in block.parameters():
        scale = channels**-0.5 if parameter.ndim == 2 else 0.5
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    block.norm.weight.add_(1)
    return block


def merged(block: AttentionBlock, dtype: torch.dtype) -> MergedAttention:
    """The block's projections, merged."""
    query, key, value, out = block.query, block.key, block.value, block.out
    return merge_attention(query.W, query.b, key.W, value.W, value.b, out.W, out.b, dtype)


def run(block: AttentionBlock, x: Tensor, backend: str | None) -> Tensor:
    """Return the block's result by the operation; ``backend`` None selects the default."""
    norm, scale = block.norm, math.sqrt(0.5) if block.skip_rescale else 1.0
    chosen = None if backend is None else operation.choose(x.device, backend)
    weights = merged(block, x.dtype)
    return group_norm_attention(x, norm.weight, norm.bias, norm.num_groups, norm.eps, weights, scale, chosen)


def make_input(shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    """Pixels with a different mean and scale in each channel."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    per_channel = torch.randn(2, 1, shape[1], 1, 1, generator=generator, dtype=torch.float64)
    return (x * per_channel[0].exp() + per_channel[1]).to(dtype).contiguous(memory_format=memory_format)


@pytest.mark.parametrize("rescale", [True, False])
def test_merging_is_exact(rescale: bool) -> None:
    """In float64 the merged form equals the block with all its biases, up to rounding."""
    block = make_block(48, rescale=rescale)
    x = make_input((2, 48, 5, 6), torch.float64, torch.contiguous_format)
    torch.testing.assert_close(run(block, x, None), block(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("memory_format", FORMATS, ids=["nchw", "channels_last"])
@pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)
def test_error_against_float64(
    backend: str, shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    """The error is at most twice the unmerged block's in the same dtype, plus one ulp of the largest value.

    The shapes give packed, partial and several tiles.
    """
    block = make_block(shape[1])
    x = make_input(shape, dtype, memory_format)
    ours = run(block, x, backend)
    assert ours.dtype == dtype and ours.shape == x.shape and ours.is_contiguous(memory_format=memory_format)
    exact = block(x.double())
    plain = block.to(dtype)(x)
    ulp = torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(float(exact.abs().max())))
    error, plain_error = (float((result.double() - exact).abs().max()) for result in (ours, plain))
    assert error <= 2 * plain_error + ulp


@pytest.mark.parametrize("pixels", [(4, 4), (8, 8), (3, 5)], ids=str)
def test_independent_images(backend: str, pixels: tuple[int, int]) -> None:
    """An image gives the same bits alone and in a batch, even beside one that has become NaN.

    At another place in its tile it is equal up to rounding: the interpreter's matrix product treats rows differently.
    """
    block = make_block(32)
    x = make_input((6, 32, *pixels), torch.bfloat16, torch.channels_last)
    batch = run(block, x, backend)
    if backend == "triton":
        assert torch.equal(batch[:1], run(block, x[:1], backend))
        ulp = torch.finfo(batch.dtype).eps * 2.0 ** math.floor(math.log2(float(batch.abs().max())))
        torch.testing.assert_close(batch[2:3], run(block, x[2:3], backend), rtol=0, atol=ulp)
    x[3, 0, 0, 0] = math.nan
    poisoned = run(block, x, backend)
    others = [0, 1, 2, 4, 5]
    assert torch.equal(poisoned[others], batch[others]) and poisoned[3].isnan().any()


def test_extreme_logits(backend: str) -> None:
    """Logits of thousands do not overflow: the softmax subtracts their maximum first.

    Rounding 2000 to float32's 24 bits changes a logit by up to 1.2e-4, and a weight by the same fraction.
    """
    block = make_block(32)
    block.query.W.mul_(300)
    x = make_input((2, 32, 8, 8), torch.float32, torch.channels_last)
    torch.testing.assert_close(run(block, x, backend).double(), block(x.double()), rtol=1e-3, atol=1e-3)


def test_empty(backend: str) -> None:
    """Zero images are valid."""
    x = torch.empty(0, 32, 4, 4, dtype=torch.bfloat16)
    assert run(make_block(32), x, backend).shape == x.shape


@pytest.mark.parametrize("memory_format", FORMATS, ids=["nchw", "channels_last"])
def test_opcheck(backend: str, memory_format: torch.memory_format) -> None:
    """Schema, fake and dispatch of the registered operators are consistent."""
    block, x = make_block(32), make_input((2, 32, 4, 4), torch.bfloat16, memory_format)
    weights = merged(block, x.dtype)
    vectors = block.norm.weight.float(), block.norm.bias.float()
    matrices = weights.score, weights.key_bias, weights.value, weights.bias
    arguments = (x, *vectors, 8, 1e-6, *matrices, 1.0)
    opcheck(operation.choose("cpu", backend), arguments)
    opcheck(torch.ops.scoresde_fast.group_norm_attention.default, arguments)


@pytest.mark.parametrize("shape", [(1, 256, 4, 4), (2, 32, 4, 4)], ids=["fused", "plain"])
def test_compile(shape: tuple[int, ...]) -> None:
    """torch.compile finds no graph break with either form."""
    assert ((16, shape[1]) in FASTER_FUSED) == (shape[1] == 256)
    block, x = make_block(shape[1]), make_input(shape, torch.bfloat16, torch.channels_last)
    compiled = torch.compile(lambda x: run(block, x, None), fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, run(block, x, None), rtol=0, atol=0)
    assert compiled.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("backend", [None, "reference"], ids=str)
def test_gradients(backend: str | None) -> None:
    """Gradients of the input are the block's."""
    block = make_block(32)
    ours = make_input((2, 32, 4, 4), torch.float64, torch.contiguous_format).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    run(block, ours, backend).square().sum().backward()
    block(theirs).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("compiled", [False, True])
def test_tangents_of_fused_shape(compiled: bool) -> None:
    """Forward-mode tangents are correct for shapes whose forward would run fused, and compile to one graph."""
    block = make_block(256)
    x = make_input((1, 256, 4, 4), torch.bfloat16, torch.channels_last)
    direction = make_input((1, 256, 4, 4), torch.bfloat16, torch.channels_last).flip(0, 2)

    def tangent(x: Tensor) -> Tensor:
        return torch.func.jvp(lambda x: run(block, x, None), (x,), (direction,))[1]

    ours = (torch.compile(tangent, fullgraph=True, backend="aot_eager") if compiled else tangent)(x).double()
    step = 1e-5 * direction.double()
    exact = (block(x.double() + step) - block(x.double() - step)) / 2e-5
    assert float((ours - exact).norm() / exact.norm()) < 0.02


@needs_interpreter
@pytest.mark.parametrize("shape", [(1, 24, 4, 4), (1, 544, 2, 2), (1, 16, 33, 32)], ids=str)
def test_unsupported_shapes(shape: tuple[int, ...]) -> None:
    """The kernel selected by name rejects unsupported shapes; the operation itself runs them."""
    block, x = make_block(shape[1]), make_input(shape, torch.float32, torch.contiguous_format)
    with pytest.raises(ValueError, match=f"does not support {shape[1]} channels in .* multiples of 16 up to 512"):
        run(block, x, "triton")
    torch.testing.assert_close(run(block, x, None).double(), block(x.double()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"x": torch.zeros(2, 32, 4, 4, dtype=torch.int32)}, TypeError, "x is int32; it must be float32"),
        ({"x": torch.zeros(2, 32, 4)}, ValueError, r"x has shape \(2, 32, 4\)"),
        ({"x": torch.zeros(2, 32, 4, 8)[..., ::2]}, ValueError, "must be contiguous or channels_last"),
        ({"x": torch.zeros(2, 32, 4, 4).bfloat16()}, TypeError, "score is float32; it must be bfloat16"),
        ({"x": torch.zeros(2, 64, 4, 4)}, ValueError, r"score has shape \(32, 32\); .* it must be \(64, 64\)"),
        ({"x": torch.zeros(2, 32, 4, 4, device="meta")}, ValueError, "score is on cpu, x on meta"),
        ({"groups": 5}, ValueError, "groups is 5; it must be a positive divisor of the 32 channels"),
        ({"groups": 0}, ValueError, "groups is 0"),
        ({"norm_bias": torch.zeros(1)}, ValueError, r"norm_bias has shape \(1,\)"),
        ({"norm_weight": torch.zeros(32, dtype=torch.int8)}, TypeError, "norm_weight is int8"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input(change: dict[str, Any], error: type[Exception], sentence: str) -> None:
    """Invalid arguments are rejected before any launch."""
    arguments: dict[str, Any] = {
        "x": torch.zeros(2, 32, 4, 4),
        "norm_weight": torch.ones(32),
        "norm_bias": torch.zeros(32),
        "groups": 8,
        "eps": 1e-6,
        "weights": merged(make_block(32), torch.float32),
    }
    with pytest.raises(error, match=sentence):
        group_norm_attention(**arguments | change)
