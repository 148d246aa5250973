# SPDX-License-Identifier: Apache-2.0
"""Files of others: a set neither follows links, nor reads, replaces or removes what does not belong to it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from scoresde_fast.files import UNFINISHED, appending, replacing, write_atomically
from scoresde_fast.generate import Shard, generate
from scoresde_fast.generate.manifest import DamagedManifestError
from scoresde_fast.generate.stores import open_store
from scoresde_fast.generate.verify import repair, verify
from tests.support.stub_sampler import OUTS, StubSampler, files

pytestmark = pytest.mark.same_everywhere

SEEDS = range(4)


def make(out: Path, seeds: range = SEEDS, **options: object) -> StubSampler:
    stub = StubSampler()
    generate(stub, seeds, out, **{"batch_size": 2, "progress": False, **options})  # type: ignore[arg-type]
    return stub


@pytest.mark.parametrize("out", OUTS)
def test_neighbours(tmp_path: Path, out: str) -> None:
    """A set does not touch the files of another, or of a user, that lie beside it under way."""
    others = {
        ".thesis.docx.unfinished": b"mine",
        ".other.npz.unfinished": b"another set",
        ".other-000000.tar.unfinished": b"another set",
        ".x-set-000000.tar.unfinished": b"another set",
    }
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    make(tmp_path / out, range(20), shard=Shard(0, 2))
    store = open_store(tmp_path / out)
    store.work.mkdir(exist_ok=True)
    (store.work / "notes.txt").write_bytes(b"mine")
    make(tmp_path / out, range(20))
    assert {name: (tmp_path / name).read_bytes() for name in others} == others
    assert (store.work / "notes.txt").read_bytes() == b"mine"


@pytest.mark.parametrize("out", ["link", "link/set", "loop"])
def test_links_to_nothing(tmp_path: Path, out: str) -> None:
    """A link to nothing or to itself in the place of the folder, or of one above it, is refused in one sentence."""
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match=r"is a link to (nowhere|loop), which does not exist; remove it"):
        make(tmp_path / out)


@pytest.mark.parametrize("name", ["run.json", "state.pt", "config.json"])
def test_folders_of_other_things(tmp_path: Path, name: str) -> None:
    """A set is not begun in the folder of a training run, a model, or conditional samples."""
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"is the folder of .* \(it has {name}\); choose another --out"):
        make(tmp_path)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("out", OUTS)
def test_own_leftovers(tmp_path: Path, out: str) -> None:
    """The incomplete files that a killed run leaves are found and removed by the next run."""
    make(tmp_path / out, range(20), shard=Shard(0, 2))
    store = open_store(tmp_path / out)
    finals = [store.manifest, store.digests, store.grid]
    finals += [tmp_path / "set/000/000002.png"] if out == "set" else [store.work / "part-x.zip"]
    finals += [path for path, _ in getattr(store, "seeds_by_archive", lambda seeds: [])(store.present())]
    for path in finals:
        path.parent.mkdir(exist_ok=True)
        path.with_name(f".{path.name}{UNFINISHED}").write_bytes(b"half")
    assert len(list(store.leftovers())) == len(finals)
    make(tmp_path / out, range(20))
    assert not [name for name in files(tmp_path) if name.endswith(UNFINISHED)]


@pytest.mark.parametrize("write", ["replacing", "write_atomically", "appending"])
def test_planted_links(tmp_path: Path, write: str) -> None:
    """A link in the place of a temporary name or of the digests is not followed."""
    target, path = tmp_path / "target", tmp_path / "file"
    target.write_bytes(b"precious")
    if write == "appending":
        path.symlink_to(target)
        with pytest.raises(OSError, match="could not be written"), appending(path):
            pass
    else:
        (tmp_path / f".file{UNFINISHED}").symlink_to(target)
        if write == "replacing":
            with replacing(path) as file:
                file.write(b"new")
        else:
            write_atomically(str(path), b"new")
        assert path.read_bytes() == b"new" and not path.is_symlink()
    assert target.read_bytes() == b"precious"


def test_links_in_the_place_of_images(tmp_path: Path) -> None:
    """Links in the place of images, dangling or not, are foreign; the images are missing, and repair replaces them."""
    make(tmp_path / "set")
    before = files(tmp_path)
    other = tmp_path / "other.png"
    other.write_bytes(b"mine")
    for name, target in (("000001.png", other), ("000002.png", tmp_path / "nowhere")):
        (tmp_path / "set/000" / name).unlink()
        (tmp_path / "set/000" / name).symlink_to(target)
    findings = verify(tmp_path / "set")
    assert str(findings.missing) == "1-2" and "000001.png (a link)" in str(findings)
    repair(StubSampler(), tmp_path / "set", findings, batch_size=2)
    assert other.read_bytes() == b"mine"
    other.unlink()
    assert files(tmp_path) == before


def test_folder_that_is_a_link(tmp_path: Path) -> None:
    """A subfolder that links into another set is refused with one sentence, and that set is not changed."""
    make(tmp_path / "set")
    make(tmp_path / "other")
    (tmp_path / "other/000/000003.png").write_bytes(b"damaged")
    before = files(tmp_path / "other")
    for path in (tmp_path / "set/000").iterdir():
        path.unlink()
    (tmp_path / "set/000").rmdir()
    (tmp_path / "set/000").symlink_to(tmp_path / "other/000", target_is_directory=True)
    findings = verify(tmp_path / "set")
    assert len(findings.missing) == 4 and "set/000 (a link)" in str(findings)
    with pytest.raises(ValueError, match="is a link, whose target may belong to another set"):
        repair(StubSampler(), tmp_path / "set", findings, batch_size=2)
    assert files(tmp_path / "other") == before


def test_special_files(tmp_path: Path) -> None:
    """A folder, a pipe and an unreadable file in the place of images are named; verification does not stop or hang."""
    make(tmp_path / "set")
    folder = tmp_path / "set/000"
    (folder / "000000.png").unlink()
    (folder / "000000.png").mkdir()
    (folder / "000001.png").unlink()
    os.mkfifo(folder / "000001.png")
    findings = verify(tmp_path / "set")
    assert "000000.png (a folder)" in str(findings) and "000001.png (a special file)" in str(findings)
    with pytest.raises(OSError, match="move the folder, and run"):  # a folder is not replaced by an image
        repair(StubSampler(), tmp_path / "set", findings, batch_size=2)
    (folder / "000000.png").rmdir()
    repair(StubSampler(), tmp_path / "set", verify(tmp_path / "set"), batch_size=2)
    assert verify(tmp_path / "set").sound


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root can read everything")
def test_unreadable_image(tmp_path: Path) -> None:
    """An image without permission to read is damaged, with the reason."""
    make(tmp_path / "set")
    (tmp_path / "set/000/000002.png").chmod(0)
    assert verify(tmp_path / "set").damaged == {2: "Permission denied"}


def test_files_of_operating_systems(tmp_path: Path) -> None:
    """Files that operating systems add do not make a set unsound."""
    make(tmp_path / "set")
    for name in (".DS_Store", "000/._000001.png", "Thumbs.db", "000/desktop.ini"):
        (tmp_path / "set" / name).write_bytes(b"")
    assert verify(tmp_path / "set").sound


@pytest.mark.parametrize("name", ["run[1].tar", "run*.npz", "a b\u00e9", "50%.zip"])
def test_names_with_special_characters(tmp_path: Path, name: str) -> None:
    """A set is complete after one run, whatever its name is."""
    make(tmp_path / name)
    assert make(tmp_path / name).batches == [] and verify(tmp_path / name).sound


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty path is refused, and ``~`` is the home folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(ValueError, match="the path '' is empty"):
        generate(StubSampler(), SEEDS, "")
    generate(StubSampler(), SEEDS, "~/set")
    assert {path.name for path in tmp_path.iterdir()} == {"home"} and verify("~/set").sound
    with pytest.raises(ValueError, match="is the root of the file system"):
        generate(StubSampler(), SEEDS, "/")


def test_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set may be the current folder; its grid has the name of the folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    make(Path())
    assert verify(".").sound and (tmp_path / "here.grid.png").exists()


@pytest.mark.parametrize("kind", ["pipe", "dangling link", "endless link"])
@pytest.mark.parametrize("out", OUTS)
def test_special_files_in_the_place_of_any_file(tmp_path: Path, out: str, kind: str) -> None:
    """Nothing hangs or reads without end, whatever stands in the place of any file of a set; a repair restores it."""
    make(tmp_path / out)
    before = files(tmp_path)
    for name in before:
        path = tmp_path / name
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(tmp_path / "nowhere" if kind == "dangling link" else "/dev/zero")
        if not name.endswith(".grid.png"):
            with contextlib.suppress(DamagedManifestError, FileNotFoundError):  # in the place of the manifest
                assert not verify(tmp_path / out).sound
        if name.endswith("samples.json"):
            path.unlink()
            path.write_bytes(before[name])
        else:
            repair(StubSampler(), tmp_path / out, verify(tmp_path / out), batch_size=2)
        if name.endswith(".grid.png") and kind != "dangling link":
            path.unlink()
            make(tmp_path / out)
        assert files(tmp_path) == before, name
