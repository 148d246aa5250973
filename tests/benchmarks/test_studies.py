# SPDX-License-Identifier: Apache-2.0
"""Studies that no other test runs still run; their figures are not checked."""

from __future__ import annotations

import pytest

from benchmarks.studies import overhead, own_network


def test_share_outside_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network takes most of a run, but not all."""
    monkeypatch.setattr(overhead, "REPEATS", 1)
    assert 0 < overhead.share_outside_network(steps=1) < 0.9


def test_cost_of_an_own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run and its bare evaluations are timed."""
    monkeypatch.setattr(own_network, "ROUNDS", 1)
    row = own_network.measure(32)
    assert row["parameters"] > 100_000 and row["ratio"] == pytest.approx(
        row["sampler_seconds"] / row["bare_seconds"], 0.1
    )
