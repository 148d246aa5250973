# SPDX-License-Identifier: Apache-2.0
"""Gradients through folded networks: equal to those of plain networks, and without cost where not needed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import scoresde_fast as sf
from scoresde_fast.devices import Precision
from scoresde_fast.networks import DDPM, ScoreNetwork
from scoresde_fast.networks.folding import FoldedConvolution, FoldedNetwork, TimedFoldedNetwork
from scoresde_fast.ops import winograd_convolution
from tests.support.networks import LABELS, OPTIONS, PAIRS, largest_difference, small, trained

FOLDED = 2e-5  # the bound in test_folding for outputs, relative to the largest value


def gradient(network: Callable[[Tensor], Tensor], x: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient in x of the sum of the output times ``weights``."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad((network(x) * weights).sum(), x)[0]


def images(network: ScoreNetwork, batch: int, size: int) -> tuple[Tensor, Tensor]:
    """Return a random input, and random weights for its output."""
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(batch, network.input_channels, size, size, generator=generator)
    return x, torch.randn(batch, network.image_channels, size, size, generator=generator)


def in_float64(network: ScoreNetwork, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the network in float64, with the time embedding computed in float32."""
    wide, temb, level = copy.deepcopy(network).double(), network.embed(labels), network.noise_level(labels)
    temb = None if temb is None else temb.detach().double()

    def evaluate(x: Tensor) -> Tensor:
        h = wide.body(x if network.centered else 2 * x - 1, temb)
        return h if level is None else h / level.double()[:, None, None, None]

    return evaluate


@pytest.fixture(scope="module")
def tiny() -> ScoreNetwork:
    """Return a network with one resolution and few blocks, which compiles in seconds."""
    return small(ch_mult=(1,), progressive_input="none")


@pytest.mark.parametrize(
    ("name", "label"), [("digits-vp", 300.0), ("digits-subvp", 999.0), ("digits-ve", 0.5), ("digits-cld", 20.0)]
)
def test_embedded_models_against_float64(name: str, label: float) -> None:
    """Relative errors are within the bounds of outputs; those of 16 bits are too large for a float32 computation."""
    network = sf.load(name).network
    assert isinstance(network, ScoreNetwork)
    labels, (x, weights) = torch.full((2,), label), images(network.eval(), 2, 16)
    exact = gradient(in_float64(network, labels), x.double(), weights.double())
    bounds: dict[Precision, float] = {"fp32": FOLDED, "bf16": 0.05, "fp16": 0.01}
    for precision, bound in bounds.items():
        folded = FoldedNetwork(network, labels[:1], precision)

        def evaluate(x: Tensor, folded: FoldedNetwork = folded) -> Tensor:
            return folded(x, torch.tensor([0]))

        ours = gradient(evaluate, x, weights)
        assert ours.dtype == torch.float32
        error = largest_difference(ours, exact)
        assert error <= bound and (precision == "fp32" or error > 1e-5), precision


@pytest.mark.parametrize("options", OPTIONS + PAIRS, ids=lambda options: "-".join(map(str, options.values())))
def test_every_option_of_ncsnpp(options: dict[str, Any]) -> None:
    """For samples at different times, gradients equal those of the plain network."""
    network, labels = small(**options), LABELS[:2]
    x, weights = images(network, 2, 8)
    timed = TimedFoldedNetwork(network, "fp32")
    plain = gradient(lambda x: network(x, labels), x, weights)
    assert largest_difference(gradient(lambda x: timed(x, labels), x, weights), plain) <= FOLDED


def test_ddpm() -> None:
    """Gradients agree for blocks without rescaling and resampling by strided convolutions."""
    torch.manual_seed(0)
    network = trained(DDPM(image_size=8, nf=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,)))
    x, weights = images(network, 2, 8)
    folded, labels = FoldedNetwork(network, LABELS), LABELS[3].expand(2)
    plain = gradient(lambda x: network(x, labels), x, weights)
    assert largest_difference(gradient(lambda x: folded(x, torch.tensor([3])), x, weights), plain) <= FOLDED


def test_weights_are_constants(tiny: ScoreNetwork) -> None:
    """Only images have gradients, although the plain network's weights require gradients."""
    folded, (x, _) = FoldedNetwork(tiny, LABELS), images(tiny, 1, 8)
    assert all(weight.requires_grad for weight in tiny.parameters() if weight.ndim == 4)
    assert not folded(x, torch.tensor([0])).requires_grad
    assert folded(x.requires_grad_(), torch.tensor([0])).requires_grad


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_no_memory_without_gradients(tiny: ScoreNetwork, mode: Callable[[], Any]) -> None:
    """There is no graph, no saved tensor and no transposed weight; the first gradient creates transposed weights."""
    folded, (x, weights) = FoldedNetwork(tiny, LABELS), images(tiny, 1, 8)
    saved: list[Tensor] = []
    kernels = [layer.winograd for layer in folded.modules() if isinstance(layer, FoldedConvolution)]
    ours = [weight for weight in kernels if weight is not None]

    def record(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with mode(), torch.autograd.graph.saved_tensors_hooks(record, lambda t: t):
        out = folded(x.requires_grad_(), torch.tensor([0]))
    assert out.grad_fn is None and not saved
    assert not any(weight in winograd_convolution._transposed for weight in ours)
    gradient(lambda x: folded(x, torch.tensor([0])), x, weights)
    assert all(weight in winograd_convolution._transposed for weight in ours)


def test_compiled_gradient(tiny: ScoreNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled evaluation has the same gradient and does not recompute weights."""
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

    vjp = torch.func.vjp(evaluate, x)[1]
    (ours,) = vjp(weights)
    assert largest_difference(ours, gradient(evaluate, x, weights)) <= FOLDED
    tangent = torch.func.jvp(evaluate, (x,), (direction,))[1]
    assert abs((tangent * weights).sum() - (ours * direction).sum()) <= FOLDED * (ours * direction).abs().sum()
