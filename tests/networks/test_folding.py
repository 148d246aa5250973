# SPDX-License-Identifier: Apache-2.0
"""Folded networks: they agree with plain networks for every option, and are channels_last inside."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from scoresde_fast.model import create
from scoresde_fast.networks import DDPM, ScoreNetwork
from scoresde_fast.networks.blocks import ResnetBlock
from scoresde_fast.networks.folding import (
    TENSOR_CORE_CHANNELS,
    FoldedConvolution,
    FoldedNetwork,
    Folding,
    TimedFoldedNetwork,
)
from tests.support.golden import NETWORKS, model, recorded, recorded_inputs
from tests.support.networks import LABELS, OPTIONS, PAIRS, largest_difference, small, trained


@torch.no_grad()
def check(network: ScoreNetwork, size: int = 8, rows: int = len(LABELS), batch: int = 2) -> None:
    x = torch.rand(batch, network.input_channels, size, size, generator=torch.Generator().manual_seed(1))
    folded = FoldedNetwork(network, LABELS)
    for row in range(rows):
        out = folded(x, torch.tensor([row]))
        assert out.dtype == torch.float32 and out.is_contiguous() and out.shape == (batch, 3, size, size)
        assert largest_difference(out, network(x, LABELS[row].expand(batch))) <= 2e-5


class TestAgreesWithPlainNetwork:
    """In float32, max |difference| <= 2e-5 max |value| at every row of a run."""

    @pytest.mark.parametrize("options", OPTIONS + PAIRS, ids=lambda options: "-".join(map(str, options.values())))
    def test_every_option_of_ncsnpp(self, options: dict[str, Any]) -> None:
        check(small(**options))

    @pytest.mark.parametrize("options", [{}, {"fir": False}, {"resblock_type": "ddpm"}, *PAIRS[1:]], ids=str)
    def test_lowest_resolution_of_one_pixel(self, options: dict[str, Any]) -> None:
        check(small(ch_mult=(1, 1, 1, 1), attn_resolutions=(1,), **options))

    @pytest.mark.parametrize("block", ["biggan", "ddpm"])
    def test_residual_adds_without_winograd(self, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without Winograd's kernel, each shortcut adds the result of the last 3x3 convolution."""
        monkeypatch.setattr("scoresde_fast.networks.folding.fits", lambda _weight: False)
        network = small(resblock_type=block)
        joins = []
        forward = FoldedConvolution.forward

        def count(self: FoldedConvolution, x: Tensor, residual: Tensor | None = None) -> Tensor:
            if residual is not None:
                assert self.weight is not None
                joins.append(self.weight.shape[2])
            return forward(self, x, residual)

        monkeypatch.setattr(FoldedConvolution, "forward", count)
        check(network, rows=1)
        blocks = [module for module in network.modules() if isinstance(module, ResnetBlock)]
        shortcuts = sum(module.shortcut_conv is not None or module.shortcut_nin is not None for module in blocks)
        assert 0 < shortcuts == joins.count(1) and joins.count(3) == len(blocks) - shortcuts > 0

    def test_ddpm(self) -> None:
        torch.manual_seed(0)
        ddpm = partial(DDPM, image_size=8, nf=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,))
        check(trained(ddpm()))
        check(trained(ddpm(conditional=False, scale_by_sigma=True, centered=False)))

    @pytest.mark.parametrize("name", ["ve/cifar10_ncsnpp_continuous", "vp/cifar10_ddpmpp_continuous"])
    def test_presets(self, name: str) -> None:
        """Networks of the papers' sizes, where rounding errors pass through 95 norms."""
        torch.manual_seed(0)
        network = create(name).network
        assert isinstance(network, ScoreNetwork)
        check(trained(network), size=32, rows=1, batch=1)

    @pytest.mark.parametrize("name", NETWORKS)
    @torch.no_grad()
    def test_golden_networks(self, name: str) -> None:
        """Outputs agree with those recorded from the official code."""
        network = model(name, "ema").network
        assert isinstance(network, ScoreNetwork)
        x, labels, _ = recorded_inputs(recorded(name))
        folded = FoldedNetwork(network, labels.float())
        out = torch.cat([folded(x[i : i + 1], torch.tensor([i])) for i in range(len(x))])
        assert largest_difference(out, torch.from_numpy(recorded(name)["net_ema"])) <= 2e-5


@pytest.mark.parametrize("options", [{}, *PAIRS], ids=lambda options: "-".join(map(str, options.values())))
@torch.no_grad()
def test_padded_channels(options: dict[str, Any]) -> None:
    """Images padded to 8 channels, as on a GPU, give the same output, padded with zeros."""
    network = small(**options)
    folded = copy.deepcopy(network)
    folding = Folding(folded, torch.float32, TENSOR_CORE_CHANNELS)
    x = torch.rand(2, network.input_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    padded = F.pad(x, (0, 0, 0, 0, 0, TENSOR_CORE_CHANNELS - network.input_channels))
    embedding = network.embed(LABELS[:1])
    assert embedding is not None
    shifts = F.linear(embedding, torch.cat(folding.weights), torch.cat(folding.biases))
    out = folded.body(padded.contiguous(memory_format=torch.channels_last), shifts[0])
    assert out.shape == (2, TENSOR_CORE_CHANNELS, 8, 8)
    assert largest_difference(out[:, :3], network.body(x, network.embed(LABELS[:1].expand(2)))) <= 2e-5
    assert not out[:, 3:].any()


class _ChannelsLastOnly(TorchDispatchMode):
    """Fails on any feature map that is not channels_last."""

    seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            image = isinstance(tensor, Tensor) and tensor.ndim == 4 and min(tensor.shape[1:]) > 1
            # Four-dimensional tensors of attention have heads instead of channels.
            if image and not func.is_view and "attention" not in str(func):
                self.seen += 1
                assert tensor.is_contiguous(memory_format=torch.channels_last), (func, tensor.stride())
        return out


@pytest.mark.parametrize("options", [{}, {"progressive": "output_skip", "progressive_input": "input_skip"}], ids=str)
@torch.no_grad()
def test_no_nchw_between_stem_and_head(options: dict[str, Any]) -> None:
    """All feature maps of the body are channels_last."""
    folded = FoldedNetwork(small(**options), LABELS)
    x = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    with _ChannelsLastOnly() as mode:
        folded.network.body(x, folded.table[0])
    assert mode.seen > 50


@torch.no_grad()
def test_table() -> None:
    """The table has one row per distinct time, and one column per channel of each block."""
    network = small()
    folded = FoldedNetwork(network, LABELS)
    channels = sum(block.conv0.out_channels for block in network.modules() if isinstance(block, ResnetBlock))
    assert folded.table.shape == (3, channels) and folded.row_of.shape == (4,)


@torch.no_grad()
def test_plain_network_is_unchanged() -> None:
    """Folding changes neither weights nor outputs of the plain network."""
    network = small()
    before, x = copy.deepcopy(network.state_dict()), torch.rand(1, 3, 8, 8)
    out = network(x, LABELS[:1])
    FoldedNetwork(network, LABELS)(x, torch.tensor([1]))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(network(x, LABELS[:1]), out)


@torch.no_grad()
def test_changed_weights_are_detected() -> None:
    """The folded network is stale after a weight of the plain network is written."""
    network = small()
    folded = FoldedNetwork(network, LABELS)
    assert not folded.stale()
    next(network.parameters()).mul_(1.5)
    assert folded.stale()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@torch.no_grad()
def test_sixteen_bits(precision: Any) -> None:
    """Outputs have dtype float32, and are close but not equal to those of a float32 network."""
    network, x = small(), torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    folded = FoldedNetwork(network, LABELS, precision)
    out, plain = folded(x, torch.tensor([1])), network(x, LABELS[1].expand(2))
    assert out.dtype == torch.float32
    assert 1e-5 < largest_difference(out, plain) < (0.05 if precision == "bf16" else 0.01)


def test_bad_precision() -> None:
    """An unknown precision, and one that needs a GPU, are refused with what is allowed."""
    with pytest.raises(ValueError, match="unknown precision 'bf61' - did you mean 'bf16'"):
        FoldedNetwork(small(), LABELS, "bf61")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="precision 'tf32' is only available on GPUs; choose from: auto,"):
        FoldedNetwork(small(), LABELS, "tf32")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_different_times(options: dict[str, Any]) -> None:
    """With samples at different times, outputs and tangents equal those of the plain network."""
    network = small(**options).eval()
    timed = TimedFoldedNetwork(network, "fp32")
    x, direction = torch.randn(2, 3, network.input_channels, 8, 8, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([700.0, 3.0, 50.0])
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, direction)
        got, wanted = (forward_ad.unpack_dual(f(dual, labels)) for f in (timed, network))
    assert largest_difference(got.primal, wanted.primal) <= 2e-5
    assert wanted.tangent.abs().max() > 0
    assert largest_difference(got.tangent, wanted.tangent) <= 5e-5
    assert largest_difference(timed(x, labels), got.primal) <= 2e-5
