# SPDX-License-Identifier: Apache-2.0
"""Runs that signals stop, or that are killed while they write: nothing is lost, and they go on with the same result."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde_fast.checkpoints import load
from scoresde_fast.locks import ProcessLock
from scoresde_fast.training import Trainer, log_lines
from scoresde_fast.training.log_lines import LogLines
from scoresde_fast.training.resumable import run_to_end
from tests.support.resumed_runs import assert_same, finish
from tests.support.tiny_training import points, trained, write_recipe

SELDOM = {"snapshot_freq": 50000}
EXITS = [(signal.SIGINT, KeyboardInterrupt, ()), (signal.SIGTERM, SystemExit, (143,))]


class SignalledTrainer(Trainer):
    """A run that receives signals while it computes the loss of a step."""

    signals: tuple[signal.Signals, ...] = ()
    at_step = 3

    def _loss(self) -> Tensor:
        if self.step == self.at_step:
            for number in self.signals:
                signal.raise_signal(number)
        return super()._loss()


@pytest.mark.parametrize(("number", "error", "arguments"), EXITS)
def test_signal_finishes_the_step(
    tmp_path: Path, number: signal.Signals, error: type[BaseException], arguments: tuple[int, ...]
) -> None:
    """The step under way is finished and saved, long before a snapshot; the run goes on to the uninterrupted result."""
    run = SignalledTrainer(points(**SELDOM), tmp_path / "parts")
    run.signals = (number,)
    handler = signal.getsignal(number)
    with pytest.raises(error) as raised:
        run_to_end(run, progress=False)
    assert raised.value.args == arguments and signal.getsignal(number) == handler
    resumed = Trainer(points(**SELDOM), tmp_path / "parts")
    assert resumed.step == run.at_step + 1
    finish(resumed)
    assert_same(resumed, trained(points(**SELDOM), tmp_path / "whole"))


@pytest.mark.parametrize(("number", "error", "arguments"), EXITS)
def test_second_signal_stops_at_once(
    tmp_path: Path, number: signal.Signals, error: type[BaseException], arguments: tuple[int, ...]
) -> None:
    """A second signal ends the step under way; the state is the one before, and no temporary file is left."""
    run = SignalledTrainer(points(**SELDOM, snapshot_freq_for_preemption=2), tmp_path)
    run.signals = (number, number)
    with pytest.raises(error) as raised:
        run_to_end(run, progress=False)
    assert raised.value.args == arguments and run.step == run.at_step
    assert Trainer(points(**SELDOM), tmp_path).step == 2
    assert {path.name for path in tmp_path.iterdir()} == {"state.pt", "state.previous.pt"}


def test_handlers_of_the_caller_stay(tmp_path: Path) -> None:
    """A signal that is ignored, as under nohup, or that the caller handles does not stop the run."""
    received: list[int] = []
    ours: list[Any] = [signal.SIG_IGN, lambda number, frame: received.append(number)]
    for index, handler in enumerate(ours):
        run = SignalledTrainer(points(), tmp_path / str(index))
        run.signals = (signal.SIGTERM,)
        before = signal.signal(signal.SIGTERM, handler)
        try:
            run_to_end(run, progress=False)
            assert signal.getsignal(signal.SIGTERM) == handler
        finally:
            signal.signal(signal.SIGTERM, before)
        assert run.step == 9
    assert received == [signal.SIGTERM]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_at_the_command_line(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """In a log file the first line comes within seconds; SIGTERM then exits with 143 and says what the state holds."""
    recipe = write_recipe(tmp_path / "tiny.json", points(**SELDOM, n_iters=10**6))
    command = [sys.executable, "-m", "scoresde_fast", "train", recipe, "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stderr is not None
    assert " of 1000000, loss " in process.stderr.readline()
    process.send_signal(number)
    said = process.stderr.read()
    assert process.wait() == code
    resumed = Trainer(points(**SELDOM, n_iters=10**6), tmp_path / "run")
    assert f"holds step {resumed.step} of 1000000, from which the run goes on" in said and "Traceback" not in said


def test_kill_between_any_two_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the folder before and after every write, sync and rename, as SIGKILL would leave it, goes on exactly.

    It loses at most the step under way, although every step is saved.
    """
    options = points(n_iters=2, snapshot_freq=2, snapshot_freq_for_preemption=1)
    run = Trainer(options, tmp_path / "run")
    kills: list[int] = []

    def copied(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for when in ("before", "after"):
                if when == "after":
                    result = call(*args, **kwargs)
                shutil.copytree(tmp_path / "run", tmp_path / f"kill{len(kills)}")
                kills.append(-1 if run.saved_step is None else run.saved_step)
            return result

        return wrapper

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", copied(os.replace))
        patch.setattr(os, "fsync", copied(os.fsync))
        patch.setattr(os, "link", copied(os.link))
        patch.setattr(torch, "save", copied(torch.save))
        finish(run)
    assert len(kills) > 3 * 2 * 3  # three states; each is written, synced and renamed
    for index, saved in enumerate(kills):
        folder = tmp_path / f"kill{index}"
        resumed = Trainer(options, folder)
        assert resumed.step >= saved
        if saved >= 0:
            load(folder)
        finish(resumed)
        assert_same(resumed, run)


def test_state_can_be_read_during_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after every change of a name there is a newest state."""
    run = Trainer(points(n_iters=4, snapshot_freq=4, snapshot_freq_for_preemption=1), tmp_path)
    run.save()
    replace, seen = os.replace, []

    def checked(source: Path, target: Path) -> None:
        for change in (lambda: None, lambda: replace(source, target)):
            change()
            seen.append((tmp_path / "state.pt").exists())

    monkeypatch.setattr(os, "replace", checked)
    finish(run)
    assert len(seen) > 8 and all(seen)
    assert not list(tmp_path.glob(".*"))


def test_unreadable_data_lose_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If an image cannot be read amid a run, the steps before it are saved, and the error is the reader's."""
    run = Trainer(points(**SELDOM), tmp_path)

    def fail(*_: object) -> Tensor:
        raise OSError(5, "Input/output error", "photos/17.png")

    for step, _ in run.run():
        if step == 3:
            monkeypatch.setattr(run.model, "from_images", fail)
            break
    with pytest.raises(OSError, match=r"photos/17\.png"):
        finish(run)
    assert Trainer(points(**SELDOM), tmp_path).step == 3


def test_unwritable_folder_is_reported_before_training(tmp_path: Path) -> None:
    """A run whose folder cannot be written fails before its first step, not at its first snapshot."""
    (tmp_path / "file").touch()
    run = Trainer(points(**SELDOM), tmp_path / "file" / "run")
    with pytest.raises(OSError, match="could not be written"):
        finish(run)
    assert run.step == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot limit the size of files")
def test_full_disk(tmp_path: Path) -> None:
    """A state that does not fit on the disk is one sentence; the state before is kept."""
    recipe = write_recipe(tmp_path / "tiny.json", points(**SELDOM))
    code = """
import resource, signal, sys
from scoresde_fast.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, "train", recipe, "--out", str(tmp_path / "run")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert "could not be written (File too large); finished files are kept" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr and not list((tmp_path / "run").glob("*state*"))


def test_folders_of_other_things(tmp_path: Path) -> None:
    """A run is not begun in the folder of samples, nor where its state cannot be written."""
    (tmp_path / "samples.json").touch()
    with pytest.raises(ValueError, match=r"is the folder of a set of samples \(it has samples.json\); choose another"):
        Trainer(points(), tmp_path)
    (tmp_path / "run" / "state.previous.pt").mkdir(parents=True)
    Trainer(points(), tmp_path / "other").save()
    shutil.copy(tmp_path / "other" / "state.pt", tmp_path / "run")
    with pytest.raises(ValueError, match=r"state\.previous\.pt is a folder, .*; move it"):
        Trainer(points(), tmp_path / "run")


def test_log_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal: a line after two seconds, one a minute and one at the end, of loss, speed and time left."""
    now = 0.0
    monkeypatch.setattr(log_lines, "perf_counter", lambda: now)
    lines = LogLines(start=100, total=340)
    for step in range(101, 341):  # two steps a second, losses 1 and 3
        now += 0.5
        lines.add(step, 1.0 + 2 * (step % 2))
    assert capsys.readouterr().err.splitlines() == [
        "step 104 of 340, loss 2, 2 steps/s, 01:58 left",
        "step 224 of 340, loss 2, 2 steps/s, 00:58 left",
        "step 340 of 340, loss 2, 2 steps/s, 00:00 left",
    ]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """While a process trains into a folder, another is refused by name; the lock of a finished run leaves no file."""
    lock = ProcessLock(tmp_path / "training.lock")
    assert lock.acquire(wait=False)
    with pytest.raises(ValueError, match=rf"process {os.getpid()} on .* is training into {tmp_path}: wait for it, or"):
        run_to_end(Trainer(points(), tmp_path), progress=False)
    lock.release()
    run_to_end(Trainer(points(), tmp_path), progress=False)
    assert not (tmp_path / "training.lock").exists()
