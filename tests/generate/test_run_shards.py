# SPDX-License-Identifier: Apache-2.0
"""Sets written by several processes: the bytes do not depend on shards, order, times or kills."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scoresde_fast.generate import SeedSet, Shard, generate
from scoresde_fast.generate.manifest import Manifest, ManifestLock
from scoresde_fast.generate.pixels import to_pixels
from scoresde_fast.generate.stores import open_store
from scoresde_fast.loop.run_monitor import OnStep
from tests.support.stub_sampler import OUTS, StubSampler, files

pytestmark = pytest.mark.same_everywhere

SEEDS = range(5, 200)


class SlowSampler(StubSampler):
    """A sampler slow enough to be killed while it computes."""

    seconds = 0.01

    def stream(
        self, seeds: Sequence[int], batch_size: int, on_step: OnStep | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        for batch in super().stream(seeds, batch_size, on_step):
            time.sleep(self.seconds)
            yield batch


def make(out: Path, shard: Shard = Shard(), batch_size: int = 7) -> None:  # noqa: B008  (it is frozen)
    generate(SlowSampler(), SEEDS, out, batch_size=batch_size, shard=shard, progress=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of a set written by one process, for each of `OUTS`."""
    sets = {}
    for out in OUTS:
        folder = tmp_path_factory.mktemp("whole")
        make(folder / out)
        sets[out] = files(folder)
    return sets


@pytest.mark.parametrize("out", OUTS)
def test_split(tmp_path: Path, out: str, whole: dict[str, dict[str, bytes]]) -> None:
    """Three shards, written in any order, give the bytes of one process; the last one adds the grid."""
    for index in (2, 0, 1):
        assert not list(tmp_path.rglob("*grid.png"))
        make(tmp_path / out, Shard(index, 3))
    assert files(tmp_path) == whole[out]


@pytest.mark.parametrize("out", OUTS)
def test_other_number_of_shards(tmp_path: Path, out: str, whole: dict[str, dict[str, bytes]]) -> None:
    """A set with four of eight shards is completed as three shards, and no image is computed twice."""
    computed: list[int] = []
    for shard in [*(Shard(index, 8) for index in (0, 3, 4, 7)), *(Shard(index, 3) for index in range(3))]:
        stub = StubSampler()
        generate(stub, SEEDS, tmp_path / out, batch_size=7, shard=shard)
        computed += [seed for batch in stub.batches for seed in batch]
    assert sorted(computed) == list(SEEDS)
    assert files(tmp_path) == whole[out]


@pytest.mark.parametrize("out", OUTS)
def test_simultaneous_processes(
    tmp_path: Path,
    out: str,
    whole: dict[str, dict[str, bytes]],
    processes: multiprocessing.context.ForkServerContext,
) -> None:
    """Four simultaneous processes, each with a shard, give the bytes of one."""
    started = [processes.Process(target=make, args=(tmp_path / out, Shard(index, 4))) for index in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 4
    assert files(tmp_path) == whole[out]


def test_packed_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another process completes the archive after the parts are listed, all images are found in the archive."""
    out = tmp_path / "set.npz"
    make(out, Shard(0, 2))
    store = open_store(out)
    list_parts = type(store)._parts  # type: ignore[attr-defined]

    def list_then_pack(self: object) -> list[Path]:
        monkeypatch.undo()
        parts: list[Path] = list_parts(self)
        make(out, Shard(1, 2))
        return parts

    monkeypatch.setattr(type(store), "_parts", list_then_pack)
    assert store.present() == SeedSet.of(SEEDS)
    assert not store.work.exists()


def test_packing_keeps_locks(tmp_path: Path) -> None:
    """The lock files of processes that still run are kept when an archive is assembled."""
    make(tmp_path / "set.npz", Shard(0, 2))
    store = open_store(tmp_path / "set.npz")
    with ManifestLock(store.work):
        store.pack(store.present(), lambda seed, image: None)
        store.clean()
        assert [path.name for path in store.work.iterdir()] == ["manifest.lock"]
    assert not store.work.exists()


@pytest.mark.parametrize("out", OUTS)
def test_other_batches(tmp_path: Path, out: str, whole: dict[str, dict[str, bytes]]) -> None:
    """Images do not depend on the batch size; the manifest records it."""
    make(tmp_path / out, batch_size=50)
    other = files(tmp_path)
    assert {name for name in other if other[name] != whole[out][name]} == {
        name for name in other if name.endswith("samples.json")
    }


@pytest.mark.parametrize("kills", [3])
@pytest.mark.parametrize("out", OUTS)
def test_random_kills(
    tmp_path: Path,
    out: str,
    kills: int,
    whole: dict[str, dict[str, bytes]],
    processes: multiprocessing.context.ForkServerContext,
) -> None:
    """A set that is killed at random times and resumed with other numbers of shards ends with the same bytes.

    After every kill, all images that the manifest records are intact.  `benchmarks.studies.sets` kills 100 times.
    """
    kill_and_finish(tmp_path / out, kills, processes, seed=kills)
    assert files(tmp_path) == whole[out]


def kill_and_finish(out: Path, kills: int, processes: multiprocessing.context.ForkServerContext, seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(kills):
        count = generator.choice((1, 2, 3))
        started = [processes.Process(target=make, args=(out, Shard(index, count))) for index in range(count)]
        for process in started:
            process.start()
        time.sleep(generator.uniform(0.05, 0.3))
        for process in started:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
            process.join()
        check_done(out)
    make(out)


def check_done(out: Path) -> None:
    """Check that all images that the manifest records as done are intact."""
    store = open_store(out)
    if store.manifest.exists():
        done = Manifest.read(store.manifest).done
        assert done is not None
        images = dict(store.read(done))
        assert list(images) == list(done)
        rounding = "floor" if store.rounds else "round"
        for seed, pixels in images.items():
            assert (pixels == to_pixels(StubSampler().image(seed)[None], rounding)[0]).all()


@pytest.mark.parametrize("out", OUTS[1:])
def test_deleted_part(tmp_path: Path, out: str, whole: dict[str, dict[str, bytes]]) -> None:
    """An archive is not assembled if a part of another shard was deleted; the next run of that shard completes it."""
    make(tmp_path / out, Shard(0, 2))
    next(tmp_path.rglob("part-*")).unlink()
    with pytest.raises(ValueError, match=r"cannot be assembled, because the images of seeds .* were deleted"):
        make(tmp_path / out, Shard(1, 2))
    make(tmp_path / out, Shard(0, 2))
    assert files(tmp_path) == whole[out]


def test_batch_dependent_sampler(tmp_path: Path) -> None:
    """If images depend on their batch, shards consist of whole batches of the set."""
    generate(StubSampler(batch_dependent=True), SEEDS, tmp_path / "a", batch_size=7)
    for index in range(3):
        stub = StubSampler(batch_dependent=True)
        generate(stub, SEEDS, tmp_path / "b", batch_size=7, shard=Shard(index, 3))
        assert all(batch[0] % 7 == 5 for batch in stub.batches)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_clock_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, dict[str, bytes]]) -> None:
    """Nothing depends on the system time: a set is begun and resumed with a clock that runs backwards."""
    now = time.time()
    times = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(times))
    make(tmp_path / "set", Shard(0, 2))
    for path in (tmp_path / "set").rglob("*"):
        os.utime(path, (now + 10**6, now + 10**6))
    make(tmp_path / "set")
    assert files(tmp_path) == whole["set"]


def test_damaged_manifest(tmp_path: Path) -> None:
    """A truncated manifest is rebuilt from the images, but only if the sampler reproduces the first of them."""
    make(tmp_path / "set")
    before = files(tmp_path)
    path = tmp_path / "set/samples.json"
    path.write_text(path.read_text()[:100])
    with pytest.warns(UserWarning, match=r"samples.json was corrupt; it is rebuilt"):
        make(tmp_path / "set")
    assert files(tmp_path) == before
    path.write_text(path.read_text()[:100])
    (tmp_path / "set/000/000006.png").write_bytes((tmp_path / "set/000/000007.png").read_bytes())
    with pytest.raises(ValueError, match=r"another image for seed 6 than the saved one"):
        make(tmp_path / "set")
    assert (tmp_path / "set/000/000006.png").exists()


def test_deleted_meanwhile(tmp_path: Path) -> None:
    """The next run computes an image that was deleted while the set was written."""

    class Deleting(StubSampler):
        def stream(
            self, seeds: Sequence[int], batch_size: int, on_step: OnStep | None = None
        ) -> Iterator[tuple[list[int], Tensor]]:
            (tmp_path / "set/000/000008.png").unlink(missing_ok=True)
            yield from super().stream(seeds, batch_size, on_step)

    make(tmp_path / "set", Shard(0, 2))
    generate(Deleting(), SEEDS, tmp_path / "set", batch_size=7, shard=Shard(1, 2), grid=False)
    assert not (tmp_path / "set/000/000008.png").exists()
    stub = StubSampler()
    generate(stub, SEEDS, tmp_path / "set", batch_size=7)
    assert stub.batches == [[8]]


def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished set in a read-only folder needs no write; for an unfinished one the error names the path."""
    make(tmp_path / "set")

    original = os.open

    def read_only(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def open_read_only(path: str, flags: int, *arguments: int) -> int:
        return read_only() if flags & (os.O_WRONLY | os.O_RDWR) else original(path, flags, *arguments)

    monkeypatch.setattr(os, "open", open_read_only)
    monkeypatch.setattr(os, "replace", read_only)
    make(tmp_path / "set")
    with pytest.raises(OSError, match=r"could not be written \(Read-only file system\)") as failure:
        generate(StubSampler(), range(300), tmp_path / "set")
    assert str(tmp_path / "set") in failure.value.filename


def test_torchrun_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RANK and WORLD_SIZE of torchrun choose the shard; no process group is needed."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        report = generate(StubSampler(), SEEDS, tmp_path / "set", batch_size=7)
    assert report.missing == 0 and not torch.distributed.is_initialized()
    assert json.loads((tmp_path / "set/samples.json").read_text())["done"] == "5-199"


def test_stop(tmp_path: Path, whole: dict[str, dict[str, bytes]]) -> None:
    """A run with ``stop`` ends after a batch and reports the missing images; the next run computes the rest."""
    answers = iter([False, False, True])
    report = generate(StubSampler(), SEEDS, tmp_path / "set", batch_size=7, stop=lambda: next(answers))
    assert (report.made, report.missing, report.stopped) == (14, len(SEEDS) - 14, True)
    assert "181 of the set are still missing" in str(report)
    make(tmp_path / "set")
    assert files(tmp_path) == whole["set"]
