# SPDX-License-Identifier: Apache-2.0
"""The operation ``winograd_convolution``: equality with the convolution, accuracy, gradients and rejected arguments."""

from __future__ import annotations

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from scoresde_fast.ops import winograd_convolution as module
from scoresde_fast.ops.winograd_convolution import (
    fits,
    operation,
    transposed_weight,
    winograd_convolution,
    winograd_filters,
    winograd_weight,
)
from tests.support.steps import opcheck

CL = torch.channels_last
BACKENDS = [name for name in ("reference", "cpu") if name == "reference" or operation.present(name)]
# (B, C, K, H, W): tiles cut on either side, fewer tiles than a register block, more than one block of tiles.
SHAPES = [(1, 8, 16, 1, 1), (2, 24, 32, 7, 9), (3, 40, 80, 4, 6), (1, 136, 16, 21, 13)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
IDS = ["-".join(map(str, shape)) for shape in SHAPES]


def case(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return x, the untransformed weight, bias and residual in float64; x and residual are rounded to ``dtype``."""
    batch, channels, out, height, width = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    x = F.silu(normal(batch, channels, height, width)).to(dtype).contiguous(memory_format=CL)
    residual = normal(batch, out, height, width).to(dtype).contiguous(memory_format=CL)
    weight = normal(out, channels, 3, 3) / (9 * channels) ** 0.5
    return x.double(), weight.double(), normal(out).double(), residual.double()


def error(result: Tensor, exact: Tensor) -> float:
    return float((result.double() - exact).abs().max())


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_equals_convolution(shape: tuple[int, ...]) -> None:
    """In float64 the reference equals torch's convolution up to rounding."""
    x, weight, bias, residual = case(shape)
    y = winograd_convolution(x, winograd_weight(weight), bias, residual, 0.7)
    torch.testing.assert_close(y, F.conv2d(x, weight, bias, padding=1) + 0.7 * residual, rtol=0, atol=1e-12)


@pytest.mark.parametrize("joined", [False, True], ids=["alone", "joined"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
@pytest.mark.skipif("cpu" not in BACKENDS, reason="the C++ extension is not built")
def test_against_float64(shape: tuple[int, ...], dtype: torch.dtype, joined: bool) -> None:
    """The error is at most twice the reference's in the same dtype, plus one ulp of the largest value."""
    x, weight, bias, residual = case(shape, dtype)
    exact = F.conv2d(x, weight, bias, padding=1) + (0.7 * residual if joined else 0)
    u, to_join = winograd_weight(weight).float(), residual.to(dtype) if joined else None
    errors = {}
    for name in ("reference", "cpu"):
        chosen = operation.choose("cpu", name)
        y = winograd_convolution(x.to(dtype), u, bias.float(), to_join, 0.7, implementation=chosen)
        assert y.dtype == dtype and y.is_contiguous(memory_format=CL)
        errors[name] = error(y, exact)
    assert errors["cpu"] <= 2 * errors["reference"] + torch.finfo(dtype).eps * float(exact.abs().max())


@pytest.mark.parametrize("backend", BACKENDS)
def test_error_against_direct_sum(backend: str) -> None:
    """Over 256 channels the float32 error is at most three times that of a direct sum, one product after another."""
    x, weight, _, _ = case((1, 256, 64, 16, 16))
    exact = F.conv2d(x, weight, padding=1)
    columns, rows = F.unfold(x.float(), 3, padding=1)[0], weight.float().flatten(1)
    total = torch.zeros(64, 256)
    for row, column in zip(rows.T, columns, strict=True):  # a library would sum in another order
        total += row[:, None] * column
    direct = error(total.view(exact.shape), exact)
    chosen = operation.choose("cpu", backend)
    ours = error(winograd_convolution(x.float(), winograd_weight(weight).float(), implementation=chosen), exact)
    assert ours <= 3 * direct


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the C++ extension is not built")
def test_independent_of_batch() -> None:
    """Samples alone and in batches of several sizes give the same bits, on one thread and on three."""
    x, weight, bias, _ = case((7, 16, 48, 8, 8))
    images, u, bias = x.float(), winograd_weight(weight).float(), bias.float()
    whole = winograd_convolution(images, u, bias)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            for size in (1, 2, 7):
                parts = [winograd_convolution(part, u, bias) for part in images.split(size)]
                assert torch.equal(torch.cat(parts), whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_operator(backend: str) -> None:
    """Schema, fake and strides are consistent; the operation compiles to one graph; empty batches are valid."""
    x, weight, bias, residual = (tensor.float() for tensor in case((2, 8, 16, 5, 6)))
    u = winograd_weight(weight)
    x, residual = x.contiguous(memory_format=CL), residual.contiguous(memory_format=CL)
    tests = ("test_schema", "test_faketensor")
    opcheck(operation.choose("cpu", backend), (x, u, bias, residual, 0.5), test_utils=tests)
    if backend == BACKENDS[-1]:
        compiled = torch.compile(winograd_convolution, backend="aot_eager", fullgraph=True)
        with torch.inference_mode():
            assert torch.equal(compiled(x, u, bias, residual, 0.5), winograd_convolution(x, u, bias, residual, 0.5))
    empty = winograd_convolution(x[:0], u, bias, implementation=operation.choose("cpu", backend))
    assert empty.shape == (0, 16, 5, 6)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_gradients(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Errors of the gradients are at most three times the reference's in the same dtype, plus one ulp of the largest.

    The incoming gradient is contiguous, and some numbers of input channels are no multiple of 16.
    """
    x, weight, bias, residual = case(shape)
    grad = torch.randn(residual.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    u = winograd_weight(weight).float()
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (x, residual)]
    ours = torch.autograd.grad(winograd_convolution(leaves[0], u, bias.float(), leaves[1], 0.7), leaves, grad)
    transposed = operation.reference(grad.contiguous(memory_format=CL), transposed_weight(u), None, None, 1.0)
    reference = (transposed[:, : x.shape[1]], 0.7 * grad)
    exact = (torch.nn.grad.conv2d_input(x.shape, weight, grad.double(), padding=1), 0.7 * grad.double())
    for result, of_reference, truth in zip(ours, reference, exact, strict=True):
        assert result.dtype == dtype
        bound = 3 * error(of_reference, truth) + torch.finfo(dtype).eps * float(truth.abs().max())
        assert error(result, truth) <= bound


def test_gradient_is_the_transpose() -> None:
    """In float64 the inverse transform returns the filters, and the transposed weight gives the gradient."""
    x, weight, _, residual = case((2, 24, 32, 7, 9))
    transformed = winograd_weight(weight)
    torch.testing.assert_close(winograd_filters(transformed), weight, rtol=0, atol=1e-14)
    wanted = torch.nn.grad.conv2d_input(x.shape, weight, residual, padding=1)
    got = winograd_convolution(residual, transposed_weight(transformed))
    torch.testing.assert_close(got[:, :24], wanted, rtol=0, atol=1e-12)
    assert got.shape[1] == 32 and got[:, 24:].abs().max() <= 1e-12


def test_transposed_weight_is_cached() -> None:
    """The transposed weight is computed once, recomputed after a write to the weight, and freed with it."""
    weight = winograd_weight(torch.randn(16, 16, 3, 3))
    transposed = transposed_weight(weight)
    assert transposed_weight(weight) is transposed
    weight.mul_(2)
    assert torch.equal(transposed_weight(weight), 2 * transposed)
    cached = len(module._transposed)
    del weight
    assert len(module._transposed) == cached - 1


def test_graph_saves_no_image() -> None:
    """The graph saves neither x nor residual, because the operation is linear."""
    x = torch.randn(1, 8, 4, 4).contiguous(memory_format=CL)
    residual = torch.randn(1, 16, 4, 4).contiguous(memory_format=CL)
    leaf = torch.zeros((), requires_grad=True)
    images = [x + leaf, residual + leaf]
    y = winograd_convolution(images[0], winograd_weight(torch.randn(16, 8, 3, 3)), None, images[1])
    held = [weakref.ref(image) for image in images]
    images.clear()
    assert y.requires_grad and not any(reference() is not None for reference in held)


def test_operator_of_the_gradient() -> None:
    """Schema, fake and strides of the transposed convolution are consistent; tracers and empty batches work."""
    x, weight, bias, residual = (tensor.float() for tensor in case((2, 24, 16, 5, 6)))
    u = winograd_weight(weight)
    x, residual = x.contiguous(memory_format=CL), residual.contiguous(memory_format=CL)
    transposed = torch.ops.scoresde_fast.winograd_convolution_transposed.default
    opcheck(transposed, (residual, u), test_utils=("test_schema", "test_faketensor"))
    arguments = (x.clone().requires_grad_(), u, bias, residual.clone().requires_grad_(), 0.5)
    opcheck(
        torch.ops.scoresde_fast.winograd_convolution.default,
        arguments,
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static"),
    )
    traced = make_fx(lambda x: torch.autograd.grad(winograd_convolution(x, u, bias).square().sum(), x)[0])(arguments[0])
    names = {str(node.target) for node in traced.graph.nodes}
    assert "scoresde_fast.winograd_convolution_transposed.default" in names
    empty = x[:0].clone().requires_grad_()
    assert torch.autograd.grad(winograd_convolution(empty, u).sum(), empty)[0].shape == empty.shape


def test_second_derivative() -> None:
    """A second derivative raises an error."""
    x = torch.randn(1, 8, 4, 4).contiguous(memory_format=CL).requires_grad_()
    y = winograd_convolution(x, winograd_weight(torch.randn(16, 8, 3, 3)))
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


class TestRefusals:
    """The message for a bad argument names the value and what is allowed."""

    x = torch.zeros(1, 8, 4, 4).contiguous(memory_format=CL)
    u = torch.zeros(36, 1, 8, 16)

    def test_weight(self) -> None:
        assert not fits(torch.zeros(16, 9, 3, 3)) and not fits(torch.zeros(8, 8, 3, 3))
        with pytest.raises(ValueError, match=r"shape \(16, 8, 1, 1\); it must be \(K, C, 3, 3\)"):
            winograd_weight(torch.zeros(16, 8, 1, 1))
        with pytest.raises(ValueError, match="weight requires a gradient; winograd_convolution has gradients of x"):
            winograd_convolution(self.x, self.u.clone().requires_grad_())
        with pytest.raises(ValueError, match=r"shape \(16, 8, 3, 3\); it must be .* from winograd_weight"):
            winograd_convolution(self.x, torch.zeros(16, 8, 3, 3))

    def test_images(self) -> None:
        with pytest.raises(ValueError, match=r"x has strides \(128, 16, 4, 1\) .* must be channels_last"):
            winograd_convolution(torch.zeros(1, 8, 4, 4), self.u)
        with pytest.raises(ValueError, match=r"x has shape \(1, 16, 4, 4\); for this weight it must be \(B, 8, H, W\)"):
            winograd_convolution(torch.zeros(1, 16, 4, 4).contiguous(memory_format=CL), self.u)
        with pytest.raises(TypeError, match="x is int64"):
            winograd_convolution(self.x.long(), self.u)

    def test_bias_and_residual(self) -> None:
        with pytest.raises(ValueError, match=r"bias has shape \(8,\); for weight of shape .* it must be \(16,\)"):
            winograd_convolution(self.x, self.u, torch.zeros(8))
        with pytest.raises(TypeError, match="residual is bfloat16; it must be float32"):
            winograd_convolution(self.x, self.u, residual=torch.zeros(1, 16, 4, 4, dtype=torch.bfloat16))
        with pytest.raises(ValueError, match=r"residual has shape \(1, 8, 4, 4\); it must be \(1, 16, 4, 4\)"):
            winograd_convolution(self.x, self.u, residual=self.x)
