# SPDX-License-Identifier: Apache-2.0
"""NCSN++ with options that no golden network has: each builds, preserves the shape and learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scoresde_fast.networks import NCSNpp
from tests.support.networks import PYRAMIDS, SIZES, SWITCHES, check


@pytest.mark.parametrize(("block", "progressive", "pyramid", "combine"), PYRAMIDS, ids=map("-".join, PYRAMIDS))
def test_pyramids(block: str, progressive: str, pyramid: str, combine: str) -> None:
    """All combinations of residual blocks, output and input pyramids, and ways to combine them."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"resblock_type": block, "progressive": progressive, "progressive_input": pyramid}
    check(NCSNpp(**SIZES, **options, progressive_combine=combine))


@pytest.mark.parametrize("options", SWITCHES, ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()))
def test_switches(options: dict[str, Any]) -> None:
    """The other options, one or a few at a time."""
    torch.manual_seed(0)
    check(NCSNpp(**SIZES, **options))


def test_compilation_tangents_and_channels_last() -> None:
    """A network compiles without graph breaks, has the right tangents, and is the same function in channels_last."""
    torch.manual_seed(0)
    network = NCSNpp(**SIZES).eval().requires_grad_(False)
    x, direction, labels = torch.rand(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.tensor([3.0, 700.0])
    plain = network(x, labels)
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, labels), plain)

    wide = network.double()
    labels, step = labels.double(), 1e-6 * direction.double()
    tangent = torch.func.jvp(lambda x: wide(x, labels), (x.double(),), (step,))[1]
    difference = (wide(x + step, labels) - wide(x - step, labels)) / 2
    torch.testing.assert_close(tangent, difference, rtol=1e-4, atol=1e-4 * float(tangent.abs().max()))

    last = network.float().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's type lacks it
    torch.testing.assert_close(last(x.contiguous(memory_format=torch.channels_last), labels.float()), plain)


def test_dropout_is_for_training_only() -> None:
    """The network is deterministic in evaluation mode and random in training mode."""
    torch.manual_seed(0)
    network = NCSNpp(**SIZES, dropout=0.5)
    x, labels = torch.rand(1, 3, 8, 8), torch.tensor([2.0])
    assert not torch.equal(network(x, labels), network(x, labels))
    network.eval()
    assert torch.equal(network(x, labels), network(x, labels))
