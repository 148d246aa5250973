# SPDX-License-Identifier: Apache-2.0
"""Interrupted sets: after any interruption, the next run completes the set to the bytes of an uninterrupted run."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pathlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scoresde_fast.generate import generate, stores
from tests.support.stub_sampler import OUTS, StubSampler, files

pytestmark = pytest.mark.same_everywhere

SEEDS = [0, 1, 2, 3, 4]


def make(out: Path, seeds: list[int] = SEEDS, **sampler: Any) -> StubSampler:
    stub = StubSampler(**{"batch_dependent": True, **sampler})
    generate(stub, seeds, out, batch_size=2)
    return stub


def fail_at(monkeypatch: pytest.MonkeyPatch, call: str, number: int, failure: Callable[[], None]) -> None:
    """Make the ``number``-th call of ``os.call`` from now on invoke ``failure``."""
    original, calls = getattr(os, call), 0

    def counted(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == number:
            failure()
        return original(*arguments, **options)

    monkeypatch.setattr(os, call, counted)
    if hasattr(accessor := getattr(pathlib, "_NormalAccessor", None), call):  # of Python 3.10
        monkeypatch.setattr(accessor, call, staticmethod(counted))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_run(out: Path, call: str, number: int) -> None:
    """Write a set until the ``number``-th ``os.call`` kills this process; run as a process."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        fail_at(monkeypatch, call, number, die)
        make(out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of an uninterrupted run for each of `OUTS`."""
    sets = {}
    for out in OUTS:
        folder = tmp_path_factory.mktemp("whole")
        make(folder / out)
        sets[out] = files(folder)
    return sets


@pytest.mark.parametrize("call", ["replace", "unlink", "fsync"])
@pytest.mark.parametrize("out", OUTS)
def test_killed_run(
    tmp_path: Path,
    out: str,
    call: str,
    whole: dict[str, dict[str, bytes]],
    processes: multiprocessing.context.ForkServerContext,
) -> None:
    """A run that is killed before any rename, removal or sync is completed byte for byte."""
    for number in range(1, 40):
        folder = tmp_path / str(number)
        process = processes.Process(target=killed_run, args=(folder / out, call, number))
        process.start()
        process.join()
        if process.exitcode == 0:
            assert files(folder) == whole[out]
            break
        assert process.exitcode == -signal.SIGKILL
        make(folder / out)
        assert files(folder) == whole[out], f"after a kill at {call} number {number}"
    assert process.exitcode == 0
    assert number > 3, "there were several kills"


@pytest.mark.parametrize("out", OUTS)
def test_ctrl_c(tmp_path: Path, out: str, whole: dict[str, dict[str, bytes]]) -> None:
    """Ctrl-C keeps finished batches and leaves no incomplete file; the next run computes only the rest."""
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / out, interrupt_in=4)
    assert not [name for name in files(tmp_path) if name.endswith((".unfinished", ".lock"))]
    assert make(tmp_path / out).batches == [[4]]
    assert files(tmp_path) == whole[out]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("out", OUTS)
def test_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, number: int, whole: dict[str, dict[str, bytes]]
) -> None:
    """The error for a full disk names the file; the next run with enough space completes the set."""

    def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as context:
        fail_at(context, "replace", number, fail)
        with pytest.raises(OSError, match="No space left on device") as failure:
            make(tmp_path / out)
    assert failure.value.errno == errno.ENOSPC
    assert str(tmp_path) in failure.value.filename
    assert not [name for name in files(tmp_path) if name.endswith((".unfinished", ".lock"))]
    make(tmp_path / out)
    assert files(tmp_path) == whole[out]


def test_full_disk_during_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, dict[str, bytes]]
) -> None:
    """Images that cannot be synced are not recorded, and the next run checks them."""

    calls = iter(range(100))

    def fail(folder: Path) -> None:
        if next(calls):  # the first call is for the manifest
            raise OSError(errno.EIO, "could not be written", str(folder))

    with monkeypatch.context() as context:
        context.setattr(stores, "sync_filesystem", fail)
        with pytest.raises(OSError, match="could not be written"):
            make(tmp_path / "set")
    assert json.loads((tmp_path / "set/samples.json").read_text())["done"] == ""
    (tmp_path / "set/000/000001.png").write_bytes(b"")  # as after a crash of the machine
    assert make(tmp_path / "set").batches == [[0, 1]]
    assert files(tmp_path) == whole["set"]


def test_out_below_a_file(tmp_path: Path) -> None:
    """The error for an --out below a file names the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be written") as failure:
        make(tmp_path / "file" / "set")
    assert failure.value.filename == str(tmp_path / "file/set")


@pytest.mark.parametrize("out", OUTS)
def test_nan(tmp_path: Path, out: str) -> None:
    """A network that returns NaN stops the run; earlier batches are kept, the faulty one is not written."""
    with pytest.raises(FloatingPointError, match=r"NaN at step 1 \(t = 0.5\)"):
        make(tmp_path / out, nan_in=3)
    assert json.loads(next(tmp_path.rglob("*samples.json")).read_text())["done"] == "0-1"
    assert out == "set" or not list(tmp_path.glob(f"*{(tmp_path / out).suffix}"))


@pytest.mark.parametrize("out", OUTS)
def test_second_run_does_nothing(tmp_path: Path, out: str) -> None:
    """A second run of a finished set evaluates no network and changes no file."""
    make(tmp_path / out)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert make(tmp_path / out).batches == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_missing_image(tmp_path: Path, whole: dict[str, dict[str, bytes]]) -> None:
    """A deleted image is computed again in its batch; the files of the other images are not changed."""
    make(tmp_path / "set")
    (tmp_path / "set/000/000003.png").unlink()
    neighbour = (tmp_path / "set/000/000002.png").stat().st_mtime_ns
    assert make(tmp_path / "set").batches == [[2, 3]]
    assert (tmp_path / "set/000/000002.png").stat().st_mtime_ns == neighbour
    assert files(tmp_path) == whole["set"]


@pytest.mark.parametrize("out", OUTS)
def test_missing_grid(tmp_path: Path, out: str, whole: dict[str, dict[str, bytes]]) -> None:
    """A deleted grid is drawn again from the images of the set, also from an archive."""
    make(tmp_path / out)
    next(tmp_path.rglob("*grid.png")).unlink()
    assert make(tmp_path / out).batches == []
    assert files(tmp_path) == whole[out]


@pytest.mark.parametrize("out", OUTS)
def test_growth(tmp_path: Path, out: str) -> None:
    """A set grows by new batches: existing images keep their bytes, also if the run is interrupted."""
    make(tmp_path / "a" / out, [0, 1, 2])
    first = files(tmp_path / "a")
    assert make(tmp_path / "a" / out, SEEDS).batches == [[3, 4]]
    if out == "set":
        grown = files(tmp_path / "a")
        assert all(grown[name] == first[name] for name in first if name[-10:-4].isdigit())
    make(tmp_path / "b" / out, [0, 1, 2])
    with pytest.raises(FloatingPointError):
        make(tmp_path / "b" / out, SEEDS, nan_in=4)
    assert json.loads(next((tmp_path / "b").rglob("*samples.json")).read_text())["done"] == "0-2"
    make(tmp_path / "b" / out, SEEDS)
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize("out", OUTS)
def test_fewer_seeds_of_a_larger_set(tmp_path: Path, out: str, whole: dict[str, dict[str, bytes]]) -> None:
    """A request for some seeds of a finished set neither computes nor removes images."""
    make(tmp_path / out)
    assert make(tmp_path / out, [3, 1]).batches == []
    assert files(tmp_path) == whole[out]


def test_other_batch_size(tmp_path: Path) -> None:
    """If images do not depend on their batch, a run may use another batch size; both are recorded."""
    make(tmp_path / "set", batch_dependent=False)
    (tmp_path / "set/000/000004.png").unlink()
    stub = StubSampler()
    generate(stub, SEEDS, tmp_path / "set", batch_size=3)
    assert stub.batches == [[4]]
    assert (tmp_path / "set/samples.json").read_text().count('"batch_size"') == 2


def test_other_batch_size_of_dependent_images(tmp_path: Path) -> None:
    """If images depend on their batch, another batch size is refused."""
    make(tmp_path / "set")
    with pytest.raises(ValueError, match="batch_size: 2 saved, 3 requested"):
        generate(StubSampler(batch_dependent=True), SEEDS, tmp_path / "set", batch_size=3)
