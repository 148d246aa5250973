# SPDX-License-Identifier: Apache-2.0
"""The measured networks, and the count of their operations."""

from __future__ import annotations

import pytest
from torch.utils.flop_counter import FlopCounterMode

from scoresde_fast.bench.baselines import original
from scoresde_fast.bench.workload import AMOUNTS, operations, require_names, total_gflop
from tests.support.bench_models import call, small_model


def test_operations_are_counted() -> None:
    """The count equals that of PyTorch's own counter for the batch, and every operation has a kind."""
    model = small_model()
    shares = operations(model.network, model.image_shape, batch=2)
    with FlopCounterMode(display=False) as counter:
        call(original(model.network))
    assert total_gflop(shares) == pytest.approx(counter.get_total_flops() / 1e9)
    assert {share.kind for share in shares} == {"convolution", "resampling", "matrix product", "norm", "pointwise"}
    assert all(share.gbyte > 0 for share in shares)


def test_amounts() -> None:
    """The default networks are all known."""
    require_names(list(AMOUNTS))
