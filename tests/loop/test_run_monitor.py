# SPDX-License-Identifier: Apache-2.0
"""Progress reporting and NaN detection, without waiting for the device."""

from __future__ import annotations

import pytest
import torch

from scoresde_fast.loop.capture import CapturedLoop
from scoresde_fast.loop.evaluator import PlainNetwork
from scoresde_fast.loop.run_monitor import MAX_QUEUED, NonFiniteError, RunMonitor
from tests.support.loops import SHAPE, TABLES, make_loop, start
from tests.support.recorded_graphs import RecordedGraphs


def test_captured_run_reports_progress_and_nan() -> None:
    """Progress is reported once per pattern; a state of NaN is reported with its row and time."""
    loop = make_loop(TABLES["pc"])
    captured = CapturedLoop(loop, (3, *SHAPE), RecordedGraphs())
    calls: list[tuple[int, int]] = []
    x, noise = start()
    captured.run(x, noise, lambda *call: calls.append(call))
    assert calls == [(2 * n, 24) for n in range(1, 13)]
    assert isinstance(loop.evaluate, PlainNetwork)
    with torch.no_grad():
        next(loop.evaluate.network.parameters()).fill_(torch.inf)
    with pytest.raises(NonFiniteError, match="after step 1 of 24, at t = 1"):
        captured.run(x, noise)


def test_gpu_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host queues a limited number of rows, and reports only finished evaluations, and NaN with its row."""
    waited_for: list[int] = []

    class Event:
        count = 0

        def record(self) -> None:
            Event.count += 1
            self.number = Event.count

        def synchronize(self) -> None:
            waited_for.append(self.number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    table, done = TABLES["em"], []
    sums = torch.zeros(1, len(table.rows))
    monitor = RunMonitor(sums, table, lambda evaluations, total: done.append(evaluations), table.nfe)
    monitor._asynchronous, monitor._host_sums = True, torch.empty_like(sums)
    for row in range(len(table.rows)):
        sums[0, row] = torch.nan if row >= 6 else 1.0
        monitor.queued(1, 1)
        assert len(waited_for) == max(0, row + 1 - MAX_QUEUED) == len(done)
    with pytest.raises(NonFiniteError, match="after step 7 of 9"):
        monitor.finish()
    assert done == list(range(1, 9))
