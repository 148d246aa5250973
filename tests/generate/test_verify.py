# SPDX-License-Identifier: Apache-2.0
"""`verify` and `repair`: every kind of damage is found, and only damaged images are generated again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from scoresde_fast.cli import main
from scoresde_fast.conditions.classes import described_conditions
from scoresde_fast.data.codecs import encode_png
from scoresde_fast.generate import SeedSet, SetInUseError, Shard, generate
from scoresde_fast.generate.manifest import DamagedManifestError, ShardLock
from scoresde_fast.generate.verify import repair, verify
from tests.support.stub_sampler import OUTS, StubSampler, files

SEEDS = range(40)


@pytest.fixture
def sample_set(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A sound set; its name, which determines the format, may be given as an indirect parameter."""
    out = tmp_path / getattr(request, "param", "set")
    generate(StubSampler(), SEEDS, out, batch_size=8)
    return out


@pytest.mark.parametrize("sample_set", OUTS, indirect=True)
def test_sound(sample_set: Path) -> None:
    """A new set is sound, and verification changes nothing."""
    before = files(sample_set.parent)
    findings = verify(sample_set)
    assert findings.sound and str(findings) == "40 images requested, 40 present\nsound"
    assert files(sample_set.parent) == before


@pytest.mark.parametrize("sample_set", OUTS[1:], indirect=True)
def test_truncated_archive(sample_set: Path) -> None:
    """A truncated archive is found, and repaired to the same bytes."""
    before = files(sample_set.parent)
    path = sample_set if sample_set.exists() else sample_set.with_name("set-000000.tar")  # .tar sets are split
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    findings = verify(sample_set)
    assert len(findings.repairable) > 10 and not findings.sound
    first_seeds = str(findings.repairable).split(",")[0]
    assert f"seeds {first_seeds}" in str(findings)
    stub = StubSampler()
    repair(stub, sample_set, findings, batch_size=8)
    assert {seed for batch in stub.batches for seed in batch} == set(findings.repairable)
    assert files(sample_set.parent) == before and verify(sample_set).sound


def damage(out: Path) -> dict[str, object]:
    """Damage a set in every way and return the expected attributes of the findings."""
    folder = out / "000"
    (folder / "000003.png").unlink()
    (folder / "000004.png").write_bytes((folder / "000004.png").read_bytes()[:-20])
    (folder / "000005.png").write_bytes(b"")
    changed = bytearray((folder / "000009.png").read_bytes())
    changed[-20] ^= 1
    (folder / "000009.png").write_bytes(changed)
    (folder / "000006.png").write_bytes(encode_png(np.zeros((9, 9, 3), np.uint8)))
    shutil.copy(folder / "000007.png", folder / "000008.png")
    shutil.copy(folder / "000010.png", out / "000010.png")
    shutil.copy(folder / "000011.png", folder / "000050.png")
    (folder / "holiday.jpg").write_bytes(b"mine")
    (folder / ".000012.png.unfinished").write_bytes(b"half")
    return {
        "missing": SeedSet.parse("3"),
        "damaged": dict.fromkeys([4, 5, 6, 8, 9], "it does not match its digest"),
        "equal": [],
        "unrequested": SeedSet.parse("50"),
        "foreign": sorted([folder / "holiday.jpg", out / "000010.png"]),
        "unfinished": [folder / ".000012.png.unfinished"],
    }


def test_every_kind(sample_set: Path) -> None:
    """Missing, truncated, empty, changed, resized, equal, misplaced, unrequested and foreign images are found."""
    before = files(sample_set)
    expected = damage(sample_set)
    findings = verify(sample_set)
    assert {name: getattr(findings, name) for name in expected} == expected
    for row in ("missing: 1, seeds 3", "damaged: 5, seeds 4-6, 8-9", "foreign: 2 files"):
        assert row in str(findings)
    stub = StubSampler()
    repair(stub, sample_set, findings, batch_size=8)
    assert stub.batches == [[3, 4, 5, 6, 8, 9]]
    after = files(sample_set)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"000010.png", "000/000050.png", "000/holiday.jpg"}, "foreign files are kept"
    assert not verify(sample_set).sound, "foreign and unrequested files remain"


def test_in_use(sample_set: Path) -> None:
    """A set is not repaired while another process writes it."""
    (sample_set / "000/000003.png").unlink()
    with ShardLock(sample_set / ".work", Shard(0, 2)), pytest.raises(SetInUseError, match="is writing shard 1/2"):
        repair(StubSampler(), sample_set, verify(sample_set))


def test_other_sampler(sample_set: Path) -> None:
    """A repair with another sampler or invalid options is refused before damaged images are removed."""
    damage(sample_set)
    before = files(sample_set)
    with pytest.raises(ValueError, match=r"sampler.steps: 3 saved, 4 requested"):
        repair(StubSampler(steps=4), sample_set, verify(sample_set))
    with pytest.raises(ValueError, match=r"batch_size: none saved, 8 requested"):
        repair(StubSampler(batch_dependent=True), sample_set, verify(sample_set), batch_size=8)
    with pytest.raises(ValueError, match="batch size 0"):
        repair(StubSampler(), sample_set, verify(sample_set), batch_size=0)
    assert files(sample_set) == before


def test_no_set(tmp_path: Path) -> None:
    """A folder without a manifest, or with an invalid one, is refused."""
    with pytest.raises(FileNotFoundError, match="no such file, so this is not a set"):
        verify(tmp_path)
    (tmp_path / "samples.json").write_text("{")
    with pytest.raises(DamagedManifestError, match=r"samples.json is not a valid manifest of samples"):
        verify(tmp_path)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`verify` exits with 1 for a damaged set; --repair restores the same bytes, using only the manifest."""
    out = tmp_path / "set"
    command = ["sample", "digits-vp", "--solver", "dpmpp_2m", "--steps", "3", "--restart", "0.1:0.3:1:2", "--strict"]
    assert main([*command, "--seeds", "0-3", "--out", str(out)]) == 0
    before = files(out)
    assert main(["verify", str(out)]) == 0
    (out / "000/000002.png").write_bytes(b"")
    with pytest.raises(SystemExit) as code:
        main(["verify", str(out)])
    assert code.value.code == 1 and "damaged: 1, seeds 2" in capsys.readouterr().out
    assert main(["verify", str(out), "--repair"]) == 0
    assert "1 images (" in capsys.readouterr().out
    assert files(out) == before


def test_repair_of_adaptive_sampler(tmp_path: Path) -> None:
    """The manifest contains the tolerances of adaptive solvers."""
    out = tmp_path / "set.npz"
    options = ["--solver", "rk45", "--rtol", "0.3", "--atol", "0.3", "--strict"]
    assert main(["sample", "digits-vp", *options, "--seeds", "0-1", "--out", str(out)]) == 0
    before = files(tmp_path)
    out.unlink()
    assert main(["verify", str(out), "--repair"]) == 0
    assert files(tmp_path) == before


def test_condition_with_data() -> None:
    """A set conditioned on data cannot be repaired, because its manifest does not contain the data."""
    with pytest.raises(ValueError, match="its data: sample again"):
        described_conditions([{"kind": "projection"}], classifier_of=pytest.fail)
