# SPDX-License-Identifier: Apache-2.0
"""Gradients through folded networks: those of the plain ones, at no cost to a run without them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

import scoresde_fast as sf
from scoresde_fast.networks import DDPM
from scoresde_fast.networks.base import ScoreNetwork
from scoresde_fast.networks.convolution import FoldedConvolution
from scoresde_fast.networks.folding import FoldedNetwork, TimedFoldedNetwork
from scoresde_fast.ops import winograd_convolution
from tests.networks.test_folding import LABELS, OPTIONS, PAIRS, largest_difference, small, trained

FOLDED = 2e-5  # of test_folding: what a folded network's own output may be off, relative to the largest value


def gradient(network: Callable[[Tensor], Tensor], x: Tensor, weights: Tensor) -> Tensor:
    """Of the output times ``weights``, in x."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad((network(x) * weights).sum(), x)[0]


def images(network: ScoreNetwork, batch: int, size: int) -> tuple[Tensor, Tensor]:
    """An input and the gradient of its output."""
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(batch, network.input_channels, size, size, generator=generator)
    return x, torch.randn(batch, network.image_channels, size, size, generator=generator)


def exactly(network: ScoreNetwork, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The network in float64 but for its embedding of time, which is a constant here."""
    wide, temb, level = copy.deepcopy(network).double(), network.embed(labels), network.noise_level(labels)
    temb = None if temb is None else temb.detach().double()

    def evaluate(x: Tensor) -> Tensor:
        h = wide.body(x if network.centered else 2 * x - 1, temb)
        return h if level is None else h / level.double()[:, None, None, None]

    return evaluate


@pytest.fixture(scope="module")
def tiny() -> ScoreNetwork:
    """One level: as few blocks as compile in seconds, with attention and without."""
    return small(ch_mult=(1,), progressive_input="none")


@pytest.mark.parametrize(
    ("name", "label"), [("digits-vp", 300.0), ("digits-subvp", 999.0), ("digits-ve", 0.5), ("digits-cld", 20.0)]
)
def test_embedded_models_against_float64(name: str, label: float) -> None:
    """float32: max |error| <= 2e-5 max |gradient|, the bound of the outputs; 16 bits: that of their outputs, and not
    float32's in disguise."""
    network = sf.load(name).network
    assert isinstance(network, ScoreNetwork)
    labels, (x, weights) = torch.full((2,), label), images(network.eval(), 2, 16)
    exact = gradient(exactly(network, labels), x.double(), weights.double())
    for precision, bound in (("fp32", FOLDED), ("bf16", 0.05), ("fp16", 0.01)):
        folded = FoldedNetwork(network, labels[:1], precision)  # type: ignore[arg-type]
        ours = gradient(lambda x, folded=folded: folded(x, torch.tensor([0])), x, weights)
        assert ours.dtype == torch.float32
        error = largest_difference(ours, exact)
        assert error <= bound and (precision == "fp32" or error > 1e-5), precision


@pytest.mark.parametrize("options", OPTIONS + PAIRS, ids=lambda options: "-".join(map(str, options.values())))
def test_every_option_of_ncsnpp(options: dict[str, Any]) -> None:
    """Each sample at another time."""
    network, labels = small(**options), LABELS[:2]
    x, weights = images(network, 2, 8)
    timed = TimedFoldedNetwork(network, "fp32")
    plain = gradient(lambda x: network(x, labels), x, weights)
    assert largest_difference(gradient(lambda x: timed(x, labels), x, weights), plain) <= FOLDED


def test_ddpm() -> None:
    """Its blocks join without a factor, and resample by strided convolutions."""
    torch.manual_seed(0)
    network = trained(DDPM(image_size=8, nf=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,)))
    x, weights = images(network, 2, 8)
    folded, labels = FoldedNetwork(network, LABELS), LABELS[3].expand(2)
    plain = gradient(lambda x: network(x, labels), x, weights)
    assert largest_difference(gradient(lambda x: folded(x, torch.tensor([3])), x, weights), plain) <= FOLDED


def test_weights_are_constants(tiny: ScoreNetwork) -> None:
    """Only an image that asks for it is followed, though the plain network is one in training."""
    folded, (x, _) = FoldedNetwork(tiny, LABELS), images(tiny, 1, 8)
    assert all(weight.requires_grad for weight in tiny.parameters() if weight.ndim == 4)
    assert not folded(x, torch.tensor([0])).requires_grad
    assert folded(x.requires_grad_(), torch.tensor([0])).requires_grad


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_nothing_is_kept_without_gradients(tiny: ScoreNetwork, mode: Callable[[], Any]) -> None:
    """No graph, no saved tensor, and no weight of a transposed convolution: that is made by the first gradient."""
    folded, (x, weights) = FoldedNetwork(tiny, LABELS), images(tiny, 1, 8)
    kept: list[Tensor] = []
    transformed = [layer.winograd for layer in folded.modules() if isinstance(layer, FoldedConvolution)]
    ours = [weight for weight in transformed if weight is not None]
    with mode(), torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = folded(x.requires_grad_(), torch.tensor([0]))
    assert out.grad_fn is None and not kept
    assert not any(weight in winograd_convolution._transposed for weight in ours)
    gradient(lambda x: folded(x, torch.tensor([0])), x, weights)
    assert all(weight in winograd_convolution._transposed for weight in ours)


def test_compiles_whole(tiny: ScoreNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled evaluation has the gradient, and makes no weight again."""
    folded, (x, weights), row = FoldedNetwork(tiny, LABELS), images(tiny, 2, 8), torch.tensor([1])
    compiled = torch.compile(folded, backend="aot_eager", fullgraph=True)
    eager = gradient(lambda x: folded(x, row), x, weights)
    monkeypatch.setattr(winograd_convolution, "winograd_filters", None)
    assert largest_difference(gradient(lambda x: compiled(x, row), x, weights), eager) <= FOLDED


def test_transforms_of_torch_func(tiny: ScoreNetwork) -> None:
    """vjp and jvp of `torch.func` agree: <w, J d> = <J^T w, d>."""
    folded, (x, weights) = FoldedNetwork(tiny, LABELS), images(tiny, 2, 8)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(6))

    def evaluate(x: Tensor) -> Tensor:
        return folded(x, torch.tensor([1]))

    _, vjp = torch.func.vjp(evaluate, x)
    (ours,) = vjp(weights)
    assert largest_difference(ours, gradient(evaluate, x, weights)) <= FOLDED
    _, tangent = torch.func.jvp(evaluate, (x,), (direction,))
    assert abs((tangent * weights).sum() - (ours * direction).sum()) <= FOLDED * (ours * direction).abs().sum()


def test_compiled_tangents() -> None:
    """A compiled jvp of folded convolutions, Winograd's and torch's, is the eager one, and not zero."""
    generator = torch.Generator().manual_seed(8)
    kernels = torch.randn(16, 8, 3, 3, generator=generator), torch.randn(4, 16, 1, 1, generator=generator)
    first = FoldedConvolution(kernels[0], None, torch.float32, padding=1)
    second = FoldedConvolution(kernels[1], torch.ones(4), torch.float32)
    x, direction = torch.randn(2, 2, 8, 5, 6, generator=generator).contiguous().unbind()

    def tangent(x: Tensor, direction: Tensor) -> Tensor:
        inputs = (x.contiguous(memory_format=torch.channels_last),)
        directions = (direction.contiguous(memory_format=torch.channels_last),)
        return torch.func.jvp(lambda x: second(first(x)), inputs, directions)[1]

    exact = F.conv2d(F.conv2d(direction, kernels[0], padding=1), kernels[1])
    compiled = torch.compile(tangent, backend="aot_eager", fullgraph=True)
    for ours in (tangent(x, direction), compiled(x, direction)):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((16, 24, 3, 3), {"padding": 1}),
        ((5, 6, 3, 3), {"padding": 1}),
        ((8, 4, 1, 1), {}),
        ((4, 3, 3, 3), {"stride": 2}),
    ],
    ids=["winograd", "3x3", "1x1", "strided"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_convolution(shape: tuple[int, ...], options: dict[str, Any], dtype: torch.dtype) -> None:
    """Gradients of x and residual, of dual numbers too: at most three times as far from float64 as torch's own of the
    dtype, or, as those may be nearly exact, than rounding takes a sum of as many products: their root times the last
    digit of the largest. Sums of 16-bit numbers are float32, and rounded once."""
    generator = torch.Generator().manual_seed(7)
    weight, bias = torch.randn(shape, generator=generator) / 3, torch.randn(shape[0], generator=generator)
    joins = "stride" not in options
    folded = FoldedConvolution(weight, bias, dtype, residual_scale=0.7, **options)
    size = (2, shape[0], 9, 7) if joins else (2, shape[0], 4, 3)
    x, residual, weights = (
        torch.randn(of, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
        for of in ((2, shape[1], 9, 7), size, size)
    )
    inputs = [x, residual] if joins else [x]

    def plain(dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [tensor.to(dtype).requires_grad_() for tensor in inputs]
        y = F.conv2d(leaves[0], weight.to(dtype), bias.to(dtype), **options)
        return torch.autograd.grad(y + 0.7 * leaves[1] if joins else y, leaves, weights.to(dtype))

    for dual in (False, True):
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        with forward_ad.dual_level():
            y = folded(forward_ad.make_dual(leaves[0], torch.ones_like(x)) if dual else leaves[0], *leaves[1:])
            ours = torch.autograd.grad(forward_ad.unpack_dual(y).primal, leaves, weights)
        products = shape[0] * shape[2] * shape[3] if dtype == torch.float32 else 1
        for got, direct, exact in zip(ours, plain(dtype), plain(torch.float64), strict=True):
            assert got.dtype == dtype
            error, of_direct = (float((result.double() - exact).abs().max()) for result in (got, direct))
            rounding = products**0.5 * torch.finfo(dtype).eps * float(exact.abs().max())
            assert error <= max(3 * of_direct, rounding)
