# SPDX-License-Identifier: Apache-2.0
"""Networks for points: depth, width and dependence on every input."""

from __future__ import annotations

import pytest
import torch

from scoresde_fast.networks import MLP, ResNet


@pytest.mark.parametrize("in_channels", [2, 4], ids=["points", "pairs"])
@pytest.mark.parametrize("kind", [MLP, ResNet])
def test_point_networks(kind: type[MLP | ResNet], in_channels: int) -> None:
    """The output is initially 0; with random weights it depends on every input, on time and on every weight."""
    torch.manual_seed(0)
    network = kind(in_channels=in_channels, nf=16, num_res_blocks=2)
    x = torch.randn(3, in_channels, 1, 1, requires_grad=True)
    labels = torch.tensor([1e-5, 0.3, 1.0])
    out = network(x, labels)
    assert out.shape == (3, 2, 1, 1) and not out.any()

    torch.nn.init.normal_(network.leave.weight)
    out = network(x, labels)
    out.square().sum().backward()
    assert x.grad is not None and (x.grad != 0).all()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    later = network(x, labels + torch.tensor([1e-2, 0.0, 0.0]))
    assert (later[0] - out[0]).abs().max() > 1e-2 and torch.equal(later[1:], out[1:])


@pytest.mark.parametrize("kind", [MLP, ResNet])
def test_depth_and_width(kind: type[MLP | ResNet]) -> None:
    """An MLP has ``num_res_blocks`` hidden layers of width ``nf``; a ResNet has twice as many."""
    network = kind(nf=16, num_res_blocks=3, num_channels=5, in_channels=10)
    hidden = [m for m in network.modules() if isinstance(m, torch.nn.Linear) and m.in_features == m.out_features == 16]
    assert len(hidden) == {MLP: 3, ResNet: 6}[kind]
    assert network(torch.zeros(2, 10, 1, 1), torch.tensor([0.1, 0.2])).shape == (2, 5, 1, 1)


def test_residual_blocks() -> None:
    """Residual blocks with zero weights leave the hidden state unchanged."""
    torch.manual_seed(0)
    network = ResNet(nf=16, num_res_blocks=2)
    for layer in network.second:
        assert isinstance(layer, torch.nn.Linear)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    h = torch.randn(3, 16)
    assert torch.equal(network.hidden(h), h)
