# SPDX-License-Identifier: Apache-2.0
"""`Pipeline`: queue, records of finished samples and errors; progress lines and reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scoresde_fast.generate import Shard, generate, pipeline
from scoresde_fast.generate.pipeline import Pipeline, Progress, Report, WriteStats
from scoresde_fast.generate.seeds import SeedSet
from scoresde_fast.generate.stores import Samples
from scoresde_fast.generate.stores.pngs import PngFolder
from tests.support.stub_sampler import StubSampler

pytestmark = pytest.mark.same_everywhere


class RecordingStore(PngFolder):
    """A store that records calls instead of writing, and can be blocked."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"))
        self.unblocked = threading.Event()
        self.unblocked.set()
        self.written: list[int] = []
        self.synced: list[int] = []
        self.failing_seed: int | None = None
        self.lock = threading.Lock()

    def encode(self, samples: Samples) -> list[Any]:
        assert samples.dtype == np.uint8
        return list(samples)

    def write(self, seeds: Sequence[int], images: Sequence[Any]) -> int:
        self.unblocked.wait(10)
        if self.failing_seed in seeds:
            raise OSError(28, "could not be written", f"{seeds[0]}.png")
        with self.lock:
            self.written += seeds
        return sum(image.nbytes for image in images)

    def sync(self) -> None:
        with self.lock:
            self.synced = list(self.written)

    def present(self, *, ignore_broken: bool = False) -> SeedSet:
        return SeedSet.of(self.written)


IMAGES = torch.zeros(10, 3, 4, 5)
BYTES, PIXEL_BYTES = IMAGES.nbytes, IMAGES.numel()


def test_seeds_are_recorded_after_sync() -> None:
    """Every seed is recorded once, after the store has synced it."""
    store = RecordingStore()
    recorded: list[int] = []

    def record(seeds: dict[int, str]) -> None:
        assert set(seeds) <= set(store.synced)
        recorded.extend(seeds)

    with Pipeline(store, "floor", record) as writing:
        for batch in range(20):
            writing.put(list(range(10 * batch, 10 * batch + 10)), IMAGES)
    assert sorted(recorded) == list(range(200))
    assert writing.stats.size == 20 * PIXEL_BYTES


def test_seeds_are_recorded_during_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written samples are recorded while others are computed, not only at the end."""
    monkeypatch.setattr(pipeline, "RECORD_EVERY", 0.01)
    recorded: list[int] = []
    with Pipeline(RecordingStore(), "floor", recorded.extend) as writing:
        for batch in range(10):
            writing.put([batch], IMAGES[:1])
            time.sleep(0.02)
        assert len(recorded) >= 5


def test_queue_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """`put` waits for room in the queue and measures the time; a batch above the limit waits for an empty queue."""
    monkeypatch.setattr(pipeline, "QUEUE_BYTES", 3 * BYTES)
    store = RecordingStore()
    store.unblocked.clear()
    with Pipeline(store, "floor", lambda seeds: None) as writing:
        for batch in range(3):
            writing.put([batch] * len(IMAGES), IMAGES)
        assert writing.stats.waited < 0.05
        threading.Timer(0.2, store.unblocked.set).start()
        writing.put([3] * len(IMAGES), IMAGES)
        assert 0.1 < writing.stats.waited < 2
        writing.put([4] * 5 * len(IMAGES), IMAGES.repeat(5, 1, 1, 1))
    assert sorted(set(store.written)) == [0, 1, 2, 3, 4]


def test_fast_disk_does_not_delay_the_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes of 20 ms each do not slow down a sampler with batches of 25 ms."""

    class Slow(RecordingStore):
        def write(self, seeds: Sequence[int], images: Sequence[Any]) -> int:
            time.sleep(0.02)
            return super().write(seeds, images)

    monkeypatch.setattr(pipeline, "QUEUE_BYTES", 2 * BYTES)
    start = time.perf_counter()
    with Pipeline(Slow(), "floor", lambda seeds: None) as writing:
        for batch in range(20):
            time.sleep(0.025)
            writing.put([batch] * len(IMAGES), IMAGES)
    assert writing.stats.waited < 0.1 and time.perf_counter() - start < 20 * (0.025 + 0.02)


def test_failed_write() -> None:
    """An error of a write is raised by a later `put` or at the end; all other samples are recorded."""
    store = RecordingStore()
    recorded: list[int] = []
    store.failing_seed = 1
    with pytest.raises(OSError, match="could not be written"), Pipeline(store, "floor", recorded.extend) as writing:
        for batch in range(4):
            writing.put([batch], IMAGES[:1])
    assert 1 not in recorded and 0 in recorded


def test_sampler_error_takes_precedence() -> None:
    """If the network returns NaN while the disk is full, the error for the NaN is raised."""
    store = RecordingStore()
    store.failing_seed = 0
    with pytest.raises(FloatingPointError), Pipeline(store, "floor", lambda seeds: None) as writing:
        writing.put([0], IMAGES[:1])
        raise FloatingPointError


def progress_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stats: WriteStats) -> list[str]:
    """Return the lines on stderr, which is no terminal, of a run of 100 images that lasts a few minutes."""
    now = iter(range(0, 10**6, 10))
    monkeypatch.setattr(pipeline, "perf_counter", lambda: next(now))
    with Progress(100, 20, 50, Shard(1, 4), stats) as progress:
        for _ in range(8):
            progress.add(10)
    return capsys.readouterr().err.splitlines()


def test_progress_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal, a line after five seconds and then one a minute report images, rates and time left."""
    written = progress_lines(monkeypatch, capsys, WriteStats(0.0, 5 * 10**8))
    assert 1 <= len(written) <= 4
    assert written[0].startswith("shard 2/4: ") and " of 100 images, " in written[0]
    for part in ("images/s", "NFE/s", "min left", "disk ", "MB/s"):
        assert part in written[0]
    assert "waiting" not in written[0]


class Terminal(StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("shard", "shows"), [(0, "a bar"), (1, "lines")])
def test_every_shard_on_a_terminal_shows_progress(monkeypatch: pytest.MonkeyPatch, shard: int, shows: str) -> None:
    """On a terminal the first shard shows a bar, and the second prints its first line within seconds."""
    stderr, now = Terminal(), [0.0]
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr(pipeline, "perf_counter", lambda: now[0])
    printed = []
    with Progress(100, 0, 50, Shard(shard, 2), WriteStats()) as progress:
        for now[0] in (1.0, 6.0, 7.0, 65.0, 67.0):
            progress.add(1)
            printed.append(stderr.getvalue().count(f"shard {shard + 1}/2: "))
    assert printed == ([0, 0, 0, 0, 0] if shows == "a bar" else [0, 1, 1, 1, 2])
    assert ("100 [" in stderr.getvalue()) == (shows == "a bar")


def test_slow_disk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Progress lines and the report say if the sampler waits for the disk."""
    assert "waiting for the disk" in progress_lines(monkeypatch, capsys, WriteStats(60.0, 1))[0]
    report = Report(10, 0, 50, Path("set"), seconds=20.0, waited=5.0)
    assert "5.0 s of it waiting for the disk" in str(report)
    assert "waiting" not in str(Report(10, 0, 50, Path("set"), seconds=20.0, waited=0.1))


def test_silent_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run with progress=False, or of a few seconds, prints nothing."""
    generate(StubSampler(), range(3), tmp_path / "a", progress=False)
    generate(StubSampler(), range(3), tmp_path / "b")
    assert capsys.readouterr().err == ""
