# SPDX-License-Identifier: Apache-2.0
"""The locks of a set: who is refused, who waits, and what a killed process leaves behind."""

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
from scoresde_fast.generate.manifest import ManifestLock, ShardLock
from tests.support.stub_sampler import StubSampler

pytestmark = pytest.mark.same_everywhere

SEEDS = range(5, 200)


def make(out: Path, shard: Shard = Shard()) -> None:  # noqa: B008  (it is frozen)
    generate(StubSampler(), SEEDS, out, batch_size=7, shard=shard, progress=False)


def hold(folder: Path, shard: Shard) -> None:
    """The body of a process that begins a shard and does not end."""
    with ShardLock(folder, shard):
        time.sleep(60)


def count(folder: Path, file: Path, times: int) -> None:
    """The body of a process that adds to the number in a file."""
    for _ in range(times):
        with ManifestLock(folder):
            file.write_text(str(int(file.read_text()) + 1))


def test_second_writer(tmp_path: Path) -> None:
    """A shard has one writer: a second is refused and told who writes; another shard is free."""
    with ShardLock(tmp_path / "set/.work", Shard(1, 3)):
        with pytest.raises(
            SetInUseError, match=rf"process {os.getpid()} on .* is writing shard 2/3 of this set; wait for it"
        ):
            make(tmp_path / "set", Shard(1, 3))
        make(tmp_path / "set", Shard(0, 3))
        with pytest.raises(SetInUseError, match=r"is writing shard 2/3 of this set, and shard 1/2 would overlap"):
            make(tmp_path / "set", Shard(0, 2))
        with pytest.raises(SetInUseError, match=r"is writing shard 2/3 of this set, and all would overlap"):
            make(tmp_path / "set")
    make(tmp_path / "set")
    assert not (tmp_path / "set/.work").exists()


def test_killed_writer(tmp_path: Path, processes: multiprocessing.context.ForkServerContext) -> None:
    """A killed process refuses nobody: its lock is free, and its lock file goes with the next run."""
    work = tmp_path / "set/.work"
    holder = processes.Process(target=hold, args=(work, Shard(0, 2)))
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


def test_one_after_another(tmp_path: Path, processes: multiprocessing.context.ForkServerContext) -> None:
    """Processes that change a manifest wait for each other, although each removes the file and folder of the lock."""
    file = tmp_path / "number"
    file.write_text("0")
    arguments = (tmp_path / "work", file, 50)
    started = [processes.Process(target=count, args=arguments) for _ in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert file.read_text() == "200" and not (tmp_path / "work").exists()


def test_released_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock whose file vanishes while it is tried is tried again, not reported as taken."""
    acquire, calls = filelock.FileLock.acquire, 0

    def late(lock: filelock.FileLock, *arguments: Any, **options: Any) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:  # the first is the manifest's
            raise filelock.Timeout(lock.lock_file)
        return acquire(lock, *arguments, **options)

    monkeypatch.setattr(filelock.FileLock, "acquire", late)
    with ShardLock(tmp_path / "work", Shard()):
        assert calls == 3
