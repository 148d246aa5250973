# SPDX-License-Identifier: Apache-2.0
"""The baselines compute the same function as the plain network, with PyTorch's operations only."""

from __future__ import annotations

import pytest
import torch

from scoresde_fast.bench.baselines import original, tuned
from scoresde_fast.networks import ScoreNetwork
from scoresde_fast.ops import Operation
from scoresde_fast.ops.registration import Backend
from tests.support.bench_models import NETWORKS, call, small_model


@pytest.mark.parametrize("name", NETWORKS)
def test_baselines_agree(name: str) -> None:
    """In float64 all baselines agree with the plain network to 1e-12 of the largest output.

    The rounding errors of all layers add up to about 50 eps of that output, 1e-14.
    """
    network = small_model(name).network.double()
    assert isinstance(network, ScoreNetwork)
    channels = network.input_channels
    truth = call(network, channels, torch.float64)
    assert truth.std() > 0.1
    for other in (original(network), tuned(network), tuned(network, sliced_fir=True)):
        assert (call(other, channels, torch.float64) - truth).abs().max() <= 1e-12 * truth.abs().max()


def test_half_precision_baseline() -> None:
    """The 16-bit baseline differs by rounding and has weights of both types; the original network stays float32."""
    network = small_model().network
    half = tuned(network, torch.bfloat16)
    error = (call(half).float() - call(network)).std() / call(network).std()
    assert 1e-4 < error < 0.05
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32, torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_baselines_use_none_of_our_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """If our network operations fail, the plain network fails and the baselines do not."""
    networks = {name: [original(small_model(name).network), tuned(small_model(name).network)] for name in NETWORKS}

    def broken(*_: object) -> None:
        raise AssertionError("one of our operations was called")

    monkeypatch.setattr(Operation, "default", lambda operation, device: Backend(broken, ("cpu",)))
    with pytest.raises(AssertionError, match="our operations"):
        call(small_model().network)
    for name, pair in networks.items():
        for network in pair:
            call(network, 6 if name == "CLD" else 3)  # CLD has position and velocity


def test_baselines_compile() -> None:
    """torch.compile captures a baseline as one graph, which also agrees with the plain network to 1e-12."""
    network = small_model().network.double()
    truth = call(network, dtype=torch.float64)
    for sliced_fir in (False, True):
        torch.compiler.reset()
        compiled = tuned(network, compile={"backend": "aot_eager"}, sliced_fir=sliced_fir)
        assert (call(compiled, dtype=torch.float64) - truth).abs().max() <= 1e-12 * truth.abs().max()
