# SPDX-License-Identifier: Apache-2.0
"""A result of the sampling benchmark, shared by the tests of results and pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from scoresde_fast.bench import sampling
from scoresde_fast.bench.results import BenchResult
from tests.support.bench_models import CEILINGS, FAST_VARIANTS, small_model


@pytest.fixture(scope="session")
def sampling_result_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result file of a benchmark of one small network, which has the name of an embedded model."""
    path = tmp_path_factory.mktemp("bench") / "sub" / "result.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "measured_model", lambda name: small_model())
        patch.setattr(sampling, "peak_rates", lambda device: CEILINGS)
        patch.setattr(sampling, "BATCHES", {"cpu": (1, 2)})
        patch.setattr(sampling, "VARIANTS", FAST_VARIANTS)
        result = sampling.bench(["digits-ve"], batch=2, nfe=4, seconds=1e-3, out=path)
    assert isinstance(result, BenchResult) and path.exists()
    return path
