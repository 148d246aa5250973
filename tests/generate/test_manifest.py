# SPDX-License-Identifier: Apache-2.0
"""Comparison of configurations, and locks: second writers, waiting processes, and killed processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import filelock
import pytest

from scoresde_fast.generate import SetInUseError, Shard, generate
from scoresde_fast.generate.manifest import Manifest, ManifestLock, ShardLock
from tests.support.stub_sampler import StubSampler

pytestmark = pytest.mark.same_everywhere

SEEDS = range(5, 200)


def make(out: Path, shard: Shard = Shard()) -> None:  # noqa: B008  (it is frozen)
    generate(StubSampler(), SEEDS, out, batch_size=7, shard=shard, progress=False)


@pytest.mark.parametrize(
    ("old", "new"),
    [({"steps": 3}, {"steps": 3, "option": None}), ({"steps": 3, "option": None}, {"steps": 3})],
    ids=["added", "removed"],
)
def test_missing_options_equal_none(tmp_path: Path, old: dict[str, object], new: dict[str, object]) -> None:
    """A set can be resumed if an option with the value None was added or removed; other values are compared."""
    path = tmp_path / "samples.json"
    Manifest.new({"sampler": old}).write(path)
    assert Manifest.begin(path, {"sampler": new}).configuration == {"sampler": old}
    with pytest.raises(ValueError, match=r"sampler\.option: none saved, 1 requested"):
        Manifest.begin(path, {"sampler": {**new, "option": 1}})


def hold_lock(folder: Path, shard: Shard) -> None:
    """Lock a shard for a minute; run as a process."""
    with ShardLock(folder, shard):
        time.sleep(60)


def increment(folder: Path, file: Path, times: int) -> None:
    """Increment the integer in a file; run as a process."""
    for _ in range(times):
        with ManifestLock(folder):
            file.write_text(str(int(file.read_text()) + 1))


def test_second_writer(tmp_path: Path) -> None:
    """A second writer of a shard is refused with the process id of the first; another shard may be written."""
    with ShardLock(tmp_path / "set/.work", Shard(1, 3)):
        with pytest.raises(
            SetInUseError, match=rf"process {os.getpid()} on .* is writing shard 2/3 of this set; wait for it"
        ):
            make(tmp_path / "set", Shard(1, 3))
        make(tmp_path / "set", Shard(0, 3))
        with pytest.raises(SetInUseError, match=r"is writing shard 2/3 of this set, which overlaps with shard 1/2"):
            make(tmp_path / "set", Shard(0, 2))
        with pytest.raises(SetInUseError, match=r"is writing shard 2/3 of this set, which overlaps with all"):
            make(tmp_path / "set")
    make(tmp_path / "set")
    assert not (tmp_path / "set/.work").exists()


def test_killed_writer(tmp_path: Path, processes: multiprocessing.context.ForkServerContext) -> None:
    """The lock of a killed process is free, and the next run removes its file."""
    work = tmp_path / "set/.work"
    holder = processes.Process(target=hold_lock, args=(work, Shard(0, 2)))
    holder.start()
    lock = work / "shard-0-of-2.lock"
    while not (lock.exists() and lock.read_text()):
        time.sleep(0.01)
    with pytest.raises(SetInUseError, match=rf"process {holder.pid} on .* is writing shard 1/2 of this set"):
        make(tmp_path / "set", Shard(0, 2))
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert lock.exists()
    make(tmp_path / "set")
    assert not work.exists()


def test_manifest_lock(tmp_path: Path, processes: multiprocessing.context.ForkServerContext) -> None:
    """Processes that change a manifest wait for each other, although each removes the lock file and its folder."""
    file = tmp_path / "number"
    file.write_text("0")
    arguments = (tmp_path / "work", file, 50)
    started = [processes.Process(target=increment, args=arguments) for _ in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert file.read_text() == "200" and not (tmp_path / "work").exists()


def test_lock_released_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock whose file disappears during an attempt is tried again."""
    acquire, calls = filelock.FileLock.acquire, 0

    def timeout_once(lock: filelock.FileLock, *arguments: Any, **options: Any) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:  # the first call locks the manifest
            raise filelock.Timeout(lock.lock_file)
        return acquire(lock, *arguments, **options)

    monkeypatch.setattr(filelock.FileLock, "acquire", timeout_once)
    with ShardLock(tmp_path / "work", Shard()):
        assert calls == 3
