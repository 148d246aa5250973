# SPDX-License-Identifier: Apache-2.0
"""A fixture for tests of captured loops."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import scoresde_fast as sf
from scoresde_fast.loop import capture as capturing
from scoresde_fast.loop import table_runner
from tests.support.recorded_graphs import RecordedGraphs


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> Callable[[sf.Sampler], RecordedGraphs]:
    """Make samplers capture loops on a CPU, with recordings instead of CUDA graphs."""

    def capture(sampler: sf.Sampler) -> RecordedGraphs:
        graphs = RecordedGraphs()
        monkeypatch.setattr(capturing, "CudaGraphs", lambda device: graphs)
        # On a CPU the check cannot tell device tensors from host tensors.
        monkeypatch.setattr(table_runner, "require_capturable_loop", lambda loop, shape: None)
        assert isinstance(sampler.runner, table_runner.TableRunner)
        sampler.runner._graphs.wanted = True
        return graphs

    return capture
