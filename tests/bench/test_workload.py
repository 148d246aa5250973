# SPDX-License-Identifier: Apache-2.0
"""Tests of the workloads: counted operations and known networks."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from scoresde_fast.bench.baselines import original
from scoresde_fast.bench.workload import AMOUNTS, Workload, measured_model, require_names
from tests.support.bench_models import call, small_model
from tests.support.own_files import write_own


def test_operations_are_counted() -> None:
    """The count equals that of PyTorch's FLOP counter for the batch, and all kinds of operations occur."""
    model = small_model()
    workload = Workload.of(model, batch=2, nfe=4, device="cpu")
    with FlopCounterMode(display=False) as counter:
        call(original(model.network))
    assert workload.gflop == pytest.approx(counter.get_total_flops() / 1e9)
    kinds = {share.kind for share in workload.operations}
    assert kinds == {"convolution", "resampling", "matrix product", "norm", "pointwise"}
    assert all(share.gbyte > 0 for share in workload.operations)


def test_default_networks_exist() -> None:
    """All default networks exist."""
    require_names(list(AMOUNTS))


def test_models_in_python(tmp_path: Path) -> None:
    """A model in Python is measured with its own weights; without parameters it is refused."""
    path = write_own(tmp_path)
    with path.open("a") as file:
        file.write("\nexact = sf.GaussianMixture.gaussian(sf.EDM(), 0.5, 0.2, (1, 4, 4))\n")
    require_names([f"{path}:plain"])
    workload = Workload.of(measured_model(f"{path}:plain"), 2, 3, "cpu")
    assert type(workload.model.network).__name__ == "Adapter" and workload.gflop > 0
    with pytest.raises(ValueError, match="has no parameters; bench measures networks"):
        measured_model(f"{path}:exact")
