# SPDX-License-Identifier: Apache-2.0
"""Networks beyond the golden ones: every option builds, keeps the shape and learns; resampling is what it claims."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from scoresde_fast.networks import DDPM, MLP, NCSNpp, ResNet
from scoresde_fast.networks.blocks import Combine
from scoresde_fast.networks.resampling import Downsample, Upsample
from scoresde_fast.ops.fir_resample import fir_down, fir_up

SIZES = {"image_size": 8, "nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,), "init_scale": 1.0}
PYRAMIDS = list(
    product(("biggan", "ddpm"), ("none", "output_skip", "residual"), ("none", "input_skip", "residual"), ("sum", "cat"))
)
SWITCHES = [
    {"fir": False},
    {"fir": False, "progressive": "residual", "progressive_input": "residual"},
    {"resamp_with_conv": False, "resblock_type": "ddpm"},
    {"resamp_with_conv": False, "resblock_type": "ddpm", "fir": False},
    {"conditional": False},
    {"embedding_type": "positional"},
    {"skip_rescale": False},
    {"scale_by_sigma": False},
    {"centered": True},
    {"nonlinearity": "elu"},
    {"fir_kernel": (1, 2, 1)},
]


def check(network: torch.nn.Module) -> None:
    """Shape kept, finite, depends on its input, and every trainable weight has a gradient."""
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3.0, 700.0])
    out = network(x, labels)
    assert out.shape == x.shape and out.isfinite().all() and out.std() > 0
    out.square().sum().backward()
    without = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize(("block", "progressive", "pyramid", "combine"), PYRAMIDS, ids=map("-".join, PYRAMIDS))
def test_pyramids(block: str, progressive: str, pyramid: str, combine: str) -> None:
    """Each residual block with each output and input pyramid and each way to combine them."""
    torch.manual_seed(0)
    options = {"resblock_type": block, "progressive": progressive, "progressive_input": pyramid}
    check(NCSNpp(**SIZES, **options, progressive_combine=combine))


@pytest.mark.parametrize("options", SWITCHES, ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()))
def test_switches(options: dict[str, object]) -> None:
    """The other options, one or a few at a time."""
    torch.manual_seed(0)
    check(NCSNpp(**SIZES, **options))


@pytest.mark.parametrize("with_conv", [True, False])
def test_ddpm(with_conv: bool) -> None:
    """The DDPM network with and without convolutions in its resampling."""
    torch.manual_seed(0)
    sizes = {name: value for name, value in SIZES.items() if name != "init_scale"}
    check(DDPM(**{**sizes, "nf": 32}, resamp_with_conv=with_conv))


def test_compiled_differentiated_and_channels_last() -> None:
    """A whole network compiles without a break, has a Jacobian product, and is the same function in channels_last."""
    torch.manual_seed(0)
    network = NCSNpp(**SIZES).eval().requires_grad_(False)
    x, direction, labels = torch.rand(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.tensor([3.0, 700.0])
    plain = network(x, labels)
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, labels), plain)

    wide = network.double()
    labels, step = labels.double(), 1e-6 * direction.double()
    _, tangent = torch.func.jvp(lambda x: wide(x, labels), (x.double(),), (step,))
    difference = (wide(x + step, labels) - wide(x - step, labels)) / 2
    torch.testing.assert_close(tangent, difference, rtol=1e-4, atol=1e-4 * float(tangent.abs().max()))

    last = network.float().to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(x.contiguous(memory_format=torch.channels_last), labels.float()), plain)


def test_dropout_is_for_training_only() -> None:
    """In evaluation mode the network is a function; in training mode dropout makes it random."""
    torch.manual_seed(0)
    network = NCSNpp(**SIZES, dropout=0.5)
    x, labels = torch.rand(1, 3, 8, 8), torch.tensor([2.0])
    assert not torch.equal(network(x, labels), network(x, labels))
    network.eval()
    assert torch.equal(network(x, labels), network(x, labels))


@pytest.mark.parametrize("in_channels", [2, 4], ids=["points", "pairs"])
@pytest.mark.parametrize("kind", [MLP, ResNet])
def test_point_networks(kind: type[MLP | ResNet], in_channels: int) -> None:
    """The output is a point, 0 at first, then one that depends on every input, on time and on every weight."""
    torch.manual_seed(0)
    network = kind(in_channels=in_channels, nf=16, num_res_blocks=2)
    x = torch.randn(3, in_channels, 1, 1, requires_grad=True)
    labels = torch.tensor([1e-5, 0.3, 1.0])
    out = network(x, labels)
    assert out.shape == (3, 2, 1, 1) and not out.any()

    torch.nn.init.normal_(network.leave.weight)
    out = network(x, labels)
    out.square().sum().backward()
    assert (x.grad != 0).all()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    later = network(x, labels + torch.tensor([1e-2, 0.0, 0.0]))
    assert (later[0] - out[0]).abs().max() > 1e-2 and torch.equal(later[1:], out[1:])


@pytest.mark.parametrize("kind", [MLP, ResNet])
def test_point_networks_have_the_depth_and_width_asked_for(kind: type[MLP | ResNet]) -> None:
    """Every hidden layer is nf wide, and there are as many as num_res_blocks says, twice that in residual blocks."""
    network = kind(nf=16, num_res_blocks=3, num_channels=5, in_channels=10)
    hidden = [m for m in network.modules() if isinstance(m, torch.nn.Linear) and m.in_features == m.out_features == 16]
    assert len(hidden) == {MLP: 3, ResNet: 6}[kind]
    assert network(torch.zeros(2, 10, 1, 1), torch.tensor([0.1, 0.2])).shape == (2, 5, 1, 1)


def test_residual_blocks_add_to_what_enters() -> None:
    """A residual network whose blocks give nothing is its first layer followed by its last."""
    torch.manual_seed(0)
    network = ResNet(nf=16, num_res_blocks=2)
    for layer in network.second:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    h = torch.randn(3, 16)
    assert torch.equal(network.hidden(h), h)


@pytest.mark.parametrize("taps", [(1, 3, 3, 1), (1, 2, 1), (1, 1), (1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("size", [(8, 6), (5, 7)], ids=str)
def test_fir_resampling_is_upfirdn(taps: tuple[int, ...], size: tuple[int, int]) -> None:
    """Up and down agree with SciPy's upfirdn along each axis, cropped so that the image stays centred."""
    signal = pytest.importorskip("scipy.signal")
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    line = np.array(taps) / sum(taps)

    def axis(values: np.ndarray, dim: int, up: int, down: int) -> np.ndarray:
        length = values.shape[dim]
        # Padding of the original: up pads (K - 1) // 2 + 1 in front, down (K - 1) // 2, before a full convolution.
        if up == 2:
            full = signal.upfirdn(2 * line, values, up=2, axis=dim)
            lead = len(taps) - 1 - ((len(taps) - 1) // 2 + 1)
            wanted = [
                full.take(i, dim) if i < full.shape[dim] else 0 * full.take(0, dim)
                for i in range(lead, lead + 2 * length)
            ]
            return np.stack(wanted, dim)
        full = signal.upfirdn(line, values, axis=dim)
        lead = len(taps) - 1 - (len(taps) - 1) // 2
        return full.take(range(lead, lead + length - (length % 2), 2), dim)

    up = axis(axis(x.numpy(), 2, 2, 1), 3, 2, 1)
    np.testing.assert_allclose(fir_up(x, taps).numpy(), up, atol=1e-12)
    if not any(n % 2 for n in size):
        np.testing.assert_allclose(fir_down(x, taps).numpy(), axis(axis(x.numpy(), 2, 1, 2), 3, 1, 2), atol=1e-12)


@pytest.mark.parametrize("taps", [None, (1, 3, 3, 1)], ids=["plain", "fir"])
def test_resampling_layers_halve_and_double(taps: tuple[int, ...] | None) -> None:
    """With and without convolution, down halves and up doubles the size."""
    x = torch.randn(1, 4, 6, 6)
    for with_conv in (True, False):
        assert Downsample(4, 4, with_conv=with_conv, taps=taps)(x).shape == (1, 4, 3, 3)
        assert Upsample(4, 4, with_conv=with_conv, taps=taps)(x).shape == (1, 4, 12, 12)


def test_combine_methods() -> None:
    """``sum`` keeps the channels, ``cat`` doubles them, projection first."""
    pyramid, h = torch.randn(1, 3, 4, 4), torch.randn(1, 8, 4, 4)
    assert Combine(3, 8, "sum")(pyramid, h).shape == (1, 8, 4, 4)
    assert torch.equal(Combine(3, 8, "cat")(pyramid, h)[:, 8:], h)
