# SPDX-License-Identifier: Apache-2.0
"""Damage of any byte of a set is found by `verify`, and `repair` restores the bytes."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest

from scoresde_fast.cli import main
from scoresde_fast.generate import generate
from scoresde_fast.generate.digests import Digests, append_digests
from scoresde_fast.generate.manifest import DamagedManifestError
from scoresde_fast.generate.stores import open_store
from scoresde_fast.generate.verify import repair, verify
from tests.support.stub_sampler import OUTS, StubSampler, files

pytestmark = pytest.mark.same_everywhere

SEEDS = range(4)


@pytest.fixture
def sample_set(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A finished set; its name, which determines the format, is an indirect parameter."""
    out: Path = tmp_path / request.param
    generate(StubSampler(), SEEDS, out, batch_size=2)
    return out


def is_found(out: Path) -> bool:
    """Return whether `verify` finds a fault; no exception but that of a damaged manifest is allowed."""
    try:
        return not verify(out).sound
    except DamagedManifestError:
        return True


@pytest.mark.parametrize("sample_set", OUTS, indirect=True)
def test_every_flip(sample_set: Path) -> None:
    """One flipped bit anywhere is found: in images, headers, directories, padding, grid, digests and manifest."""
    generator = random.Random(0)
    for path in [path for path in sample_set.parent.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        for position in sorted(generator.sample(range(len(content)), min(len(content), 60))):
            changed = bytearray(content)
            changed[position] ^= 1 << generator.randrange(8)
            path.write_bytes(changed)
            assert is_found(sample_set), f"byte {position} of {path}: {content[position]} -> {changed[position]}"
        path.write_bytes(content)
    assert verify(sample_set).sound


@pytest.mark.parametrize("sample_set", OUTS, indirect=True)
def test_repair(sample_set: Path) -> None:
    """A repair of any one damaged file, but the manifest, restores the bytes of all files."""
    before = files(sample_set.parent)
    for name, content in before.items():
        if name.endswith("samples.json"):
            continue
        for changed in (
            content[: len(content) // 2],
            content[:30] + bytes(byte ^ 1 for byte in content[30:40]) + content[40:],
            None,
        ):
            path = sample_set.parent / name
            path.unlink()
            if changed is not None:
                path.write_bytes(changed)
            elif name.endswith(".grid.png"):
                assert verify(sample_set).sound, "a set needs no grid"
                path.write_bytes(content)
                continue
            assert is_found(sample_set)
            repair(StubSampler(), sample_set, verify(sample_set), batch_size=2)
            assert verify(sample_set).sound and files(sample_set.parent) == before, name


@pytest.mark.parametrize("sample_set", ["set", "set.zip"], indirect=True)
def test_exchanged_images(sample_set: Path) -> None:
    """An image that is a valid PNG, but not that of its seed, is damaged and not part of the set."""
    if sample_set.is_dir():
        shutil.copy(sample_set / "000/000000.png", sample_set / "000/000001.png")
    else:
        with ZipFile(sample_set) as archive:
            images = {name: archive.read(name) for name in archive.namelist()}
            comment = archive.comment
        images["000001.png"] = images["000000.png"]
        with ZipFile(sample_set, "w") as archive:
            archive.comment = comment
            for name, image in images.items():
                archive.writestr(name, image)
    findings = verify(sample_set)
    assert findings.damaged == {1: "it does not match its digest"}
    assert "seed 1: it does not match its digest" in str(findings)
    repair(StubSampler(), sample_set, findings, batch_size=2)
    assert verify(sample_set).sound


@pytest.mark.parametrize("sample_set", ["set"], indirect=True)
def test_sha256sum(sample_set: Path) -> None:
    """The digests are those of ``sha256sum``, which can check them."""
    lines = (sample_set / "samples.sha256").read_text().splitlines()
    for line, seed in zip(lines, SEEDS, strict=True):
        path = sample_set / f"000/{seed:06d}.png"
        assert line == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  000/{path.name}"
    if program := shutil.which("sha256sum"):
        subprocess.run([program, "--check", "--quiet", "samples.sha256"], cwd=sample_set, check=True)


def test_incomplete_line(tmp_path: Path) -> None:
    """A line that a crash left incomplete is ignored, and the next line is not appended to it."""
    store = open_store(tmp_path)
    append_digests(store, {0: "0" * 64})
    store.digests.write_bytes(store.digests.read_bytes() + b"1" * 64 + b"  000/0000")
    append_digests(store, {2: "2" * 64, 0: "3" * 64})
    assert Digests.read(store).images == {0: "3" * 64, 2: "2" * 64}


@pytest.mark.parametrize("sample_set", OUTS, indirect=True)
def test_missing_digests(sample_set: Path) -> None:
    """If the digests are deleted, the set is not sound, and the next run writes them again without sampling."""
    before = files(sample_set.parent)
    next(sample_set.parent.rglob("*.sha256")).unlink()
    assert "it is missing" in str(verify(sample_set))
    stub = StubSampler()
    generate(stub, SEEDS, sample_set, batch_size=2)
    assert stub.batches == [] and files(sample_set.parent) == before


@pytest.mark.parametrize("by", ["generate", "repair"])
@pytest.mark.parametrize("sample_set", ["set"], indirect=True)
def test_missing_digests_of_changed_images(sample_set: Path, by: str) -> None:
    """Without its digests a set is not believed: if an image has changed, all are sampled again."""
    before = files(sample_set.parent)
    (sample_set / "samples.sha256").unlink()
    first, second = sample_set / "000/000000.png", sample_set / "000/000001.png"
    first.rename(sample_set / "x")
    second.rename(first)
    (sample_set / "x").rename(second)
    with pytest.warns(UserWarning, match="have changed since; all are sampled again"):
        if by == "generate":
            generate(StubSampler(), SEEDS, sample_set, batch_size=2)
        else:
            repair(StubSampler(), sample_set, verify(sample_set), batch_size=2)
    assert files(sample_set.parent) == before


def test_repair_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``verify --repair`` also repairs what is not an image: the archive around them, its digests and the grid."""
    out = tmp_path / "set.tar"
    options = ["--solver", "ddim", "--grid", "logsnr", "--steps", "2", "--seeds", "0-3", "--strict"]
    assert main(["sample", "digits-vp", *options, "--out", str(out)]) == 0
    before = files(tmp_path)
    for name in before:
        if not name.endswith("samples.json"):
            (tmp_path / name).write_bytes(before[name] + b"junk")
            assert main(["verify", str(out), "--repair"]) == 0, name
            assert files(tmp_path) == before
    (tmp_path / "set.tar.samples.json").write_bytes(b"{")
    assert main(["verify", str(out)]) == 2
    assert "the command that made the set rebuilds it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sample_set", "damage"),
    [
        ("set.npz", lambda out: np.savez_compressed(out, arr_0=np.zeros((4, 4, 5, 3), np.uint8), seeds=np.arange(4))),
        ("set.npz", lambda out: np.savez(out, arr_0=np.zeros(4), seeds=np.arange(4))),
        ("set.npy", lambda out: np.save(out, np.array([{}], object), allow_pickle=True)),
        ("set.zip", lambda out: ZipFile(out, "w", ZIP_DEFLATED).writestr("000000.png", bytes(10**7))),
        (
            "set.zip",
            lambda out: out.write_bytes(b"PK\x05\x06" + bytes(16) + b"\xff\xff" + b"SCORESDE_FAST.seeds=0-9" * 9),
        ),
        ("set.tar", lambda out: out.with_name("set-000000.tar").write_bytes(bytes(1024))),
    ],
    indirect=["sample_set"],
    ids=["compressed", "dtype", "pickle", "deflated", "seeds", "tar"],
)
def test_other_archives(sample_set: Path, damage: Callable[[Path], object]) -> None:
    """Another file in the archive's place is found without being unpacked, and it can be repaired."""
    damage(sample_set)
    findings = verify(sample_set)
    assert not findings.sound and len(findings.repairable)
    repair(StubSampler(), sample_set, findings, batch_size=2)
    assert verify(sample_set).sound


@pytest.mark.parametrize("missing", [1, *range(20, 30), 1024])
@pytest.mark.parametrize("sample_set", OUTS[1:], indirect=True)
def test_truncated_archives(sample_set: Path, missing: int) -> None:
    """A run refuses an archive without its end and gives the command that repairs it; its images do not count."""
    (archive,) = open_store(sample_set).archives()
    archive.write_bytes(archive.read_bytes()[:-missing])
    with pytest.raises(ValueError, match=r"is not an archive of samples .* scoresde-fast verify .* --repair"):
        generate(StubSampler(), SEEDS, sample_set)


@pytest.mark.parametrize("sample_set", ["set.zip", "set.tar"], indirect=True)
def test_seeds_that_fill_the_memory(sample_set: Path) -> None:
    """An archive whose header claims 2^62 seeds is not believed."""
    path = next(path for path in sample_set.parent.iterdir() if path.suffix in (".zip", ".tar"))
    path.write_bytes(path.read_bytes().replace(b"SCORESDE_FAST.seeds=0-3", b"SCORESDE_FAST.seeds=0-4" + b"6" * 18))
    assert not verify(sample_set).sound


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, "[]", "{}", '"text"', '{"configuration": {}, "seeds": "x", "environments": []}', "\x00", "NaN"],
)
def test_wild_manifests(tmp_path: Path, content: str) -> None:
    """A file that is not a manifest is refused in one sentence, however deeply it is nested."""
    (tmp_path / "samples.json").write_text(content)
    with pytest.raises(DamagedManifestError, match="is not a valid manifest of samples"):
        verify(tmp_path)


def test_manifest_without_a_sampler(tmp_path: Path) -> None:
    """A manifest of something else than a set of samples is named as such, also by --repair."""
    manifest = {"configuration": {"format": "png"}, "seeds": ["0-3"], "environments": [], "done": "0-3"}
    (tmp_path / "samples.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedManifestError, match="does not describe a sampler"):
        verify(tmp_path)


def test_edited_manifest(tmp_path: Path) -> None:
    """A manifest that was edited does not match its digest; the next run rebuilds it from the images."""
    generate(StubSampler(), SEEDS, tmp_path / "set", batch_size=2)
    path = tmp_path / "set/samples.json"
    before = path.read_text()
    path.write_text(re.sub('"floor"', '"round"', before))
    with pytest.raises(DamagedManifestError, match="its content does not match its SHA-256"):
        verify(tmp_path / "set")
    with pytest.warns(UserWarning, match="it is rebuilt from the images"):
        generate(StubSampler(), SEEDS, tmp_path / "set", batch_size=2)
    assert path.read_text() == before
