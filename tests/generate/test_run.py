# SPDX-License-Identifier: Apache-2.0
"""`generate`: the files of each format, their bytes, and requests that are refused before anything is written."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde_fast.generate import generate
from scoresde_fast.generate.pixels import to_pixels
from scoresde_fast.generate.verify import verify
from tests.support.stub_sampler import OUTS, StubSampler

pytestmark = pytest.mark.same_everywhere


def expected(seed: int, channels: int = 3) -> np.ndarray:
    return to_pixels(StubSampler(channels=channels).image(seed)[None], "floor")[0]


def test_folder(tmp_path: Path) -> None:
    """A folder has a PNG per seed, in subfolders of a thousand, the manifest, the digests, and beside it the grid."""
    report = generate(StubSampler(), [3, 0, 1234567], tmp_path / "set", batch_size=2)
    names = {str(path.relative_to(tmp_path / "set")) for path in (tmp_path / "set").rglob("*") if path.is_file()}
    assert names == {"000/000000.png", "000/000003.png", "1234/1234567.png", "samples.json", "samples.sha256"}
    assert np.array_equal(np.asarray(Image.open(tmp_path / "set/1234/1234567.png")), expected(1234567))
    assert (report.made, report.found, report.look_at) == (3, 0, tmp_path / "set.grid.png")


def test_npz(tmp_path: Path) -> None:
    """An .npz contains arr_0 as NHWC uint8, sorted by seed, with grid and manifest beside it."""
    generate(StubSampler(), [5, 2, 9], tmp_path / "set.npz", batch_size=2)
    with np.load(tmp_path / "set.npz") as archive:
        assert archive["seeds"].tolist() == [2, 5, 9]
        assert archive["arr_0"].dtype == np.uint8
        assert np.array_equal(archive["arr_0"], np.stack([expected(seed) for seed in (2, 5, 9)]))
    assert {path.name for path in tmp_path.iterdir()} == {
        "set.npz",
        "set.npz.grid.png",
        "set.npz.samples.json",
        "set.npz.sha256",
    }


def test_zip(tmp_path: Path) -> None:
    """A .zip contains the same PNGs as a folder, without the date of the run."""
    generate(StubSampler(), range(3), tmp_path / "set.zip")
    generate(StubSampler(), range(3), tmp_path / "set")
    with ZipFile(tmp_path / "set.zip") as archive:
        assert archive.namelist() == ["000000.png", "000001.png", "000002.png"]
        assert {info.date_time[0] for info in archive.infolist()} == {1980}
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "set/000" / name).read_bytes()
    assert (tmp_path / "set.zip.grid.png").read_bytes() == (tmp_path / "set.grid.png").read_bytes()


def test_tar(tmp_path: Path) -> None:
    """Each .tar shard has the PNGs of 10 000 seeds, the same as in a folder, without a date or owner."""
    generate(StubSampler(), [9999, 10000, 3, 25000], tmp_path / "set.tar", batch_size=3)
    generate(StubSampler(), [3, 9999, 10000, 25000], tmp_path / "set")
    names = {"set-000000.tar": [3, 9999], "set-000001.tar": [10000], "set-000002.tar": [25000]}
    assert {path.name for path in tmp_path.glob("*.tar")} == set(names)
    for name, seeds in names.items():
        with tarfile.open(tmp_path / name) as archive:
            members = archive.getmembers()
            assert [member.name for member in members] == [f"{seed:06d}.png" for seed in seeds]
            for seed, member in zip(seeds, members, strict=True):
                assert (member.mtime, member.uid) == (0, 0)
                expected_path = next((tmp_path / "set").rglob(f"{seed:06d}.png"))
                file = archive.extractfile(member)
                assert file is not None and file.read() == expected_path.read_bytes()


def test_npy(tmp_path: Path) -> None:
    """An .npy contains the sampler's float32 values; NumPy loads and memory-maps it."""
    generate(StubSampler(), [7, 2], tmp_path / "set.npy")
    images = torch.stack([StubSampler().image(seed) for seed in (2, 7)]).numpy()
    assert np.load(tmp_path / "set.npy").dtype == np.float32
    assert np.array_equal(np.load(tmp_path / "set.npy"), images)
    assert np.array_equal(np.load(tmp_path / "set.npy", mmap_mode="r"), images)
    assert json.loads((tmp_path / "set.npy.samples.json").read_text())["configuration"]["rounding"] is None


def test_manifest(tmp_path: Path) -> None:
    """samples.json records the settings that determine the output and the environment, without times."""
    generate(StubSampler(), range(5), tmp_path, batch_size=4)
    manifest = json.loads((tmp_path / "samples.json").read_text())
    assert manifest["configuration"] == {
        "format": "png",
        "rounding": "floor",
        "nfe": 6,
        "sampler": {"model": {"name": "stub"}, "solver": "pc", "steps": 3, "grid": [0.0, 1.0]},
    }
    assert (manifest["seeds"], manifest["done"]) == (["0-4"], "0-4")
    (environment,) = manifest["environments"]
    assert environment.items() >= {"device": "cpu", "batch_size": 4, "torch": torch.__version__}.items()


@pytest.mark.parametrize("out", OUTS)
def test_gray(tmp_path: Path, out: str) -> None:
    """Images with one channel keep it in every format."""
    generate(StubSampler(channels=1), [4], tmp_path / out)
    if out == "set":
        assert Image.open(tmp_path / "set/000/000004.png").mode == "L"
    elif out == "set.npz":
        assert np.array_equal(np.load(tmp_path / out)["arr_0"], expected(4, channels=1)[None])


def test_two_channels(tmp_path: Path) -> None:
    """Images with 2 channels, which PNG does not support, are refused."""
    with pytest.raises(ValueError, match="2 channels"):
        generate(StubSampler(channels=2), [0], tmp_path / "set")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda out: generate(StubSampler(steps=4), [0], out), "sampler.steps: 3 saved, 4 requested"),
        (
            lambda out: generate(StubSampler(batch_dependent=True), [0], out, batch_size=8),
            "batch_size: none saved, 8 requested",
        ),
    ],
    ids=["steps", "batch_dependent"],
)
@pytest.mark.parametrize("out", OUTS)
def test_other_configuration(tmp_path: Path, out: str, change: Callable[[Path], object], says: str) -> None:
    """Two configurations are never mixed: the message names the value that differs, and no file changes."""
    generate(StubSampler(), range(3), tmp_path / out)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    with pytest.raises(ValueError, match=f"{re.escape(says)}.*--out"):
        change(tmp_path / out)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}


def test_other_rounding(tmp_path: Path) -> None:
    """Another rounding is another configuration."""
    generate(StubSampler(), range(3), tmp_path / "set")
    with pytest.raises(ValueError, match='rounding: "floor" saved, "round" requested'):
        generate(StubSampler(), range(4), tmp_path / "set", rounding="round")


def test_other_format_of_the_same_name(tmp_path: Path) -> None:
    """Sets of one name in all formats lie in one folder, and each is sound."""
    for out in OUTS:
        generate(StubSampler(), range(3), tmp_path / out)
    assert all(verify(tmp_path / out).sound for out in OUTS)


def test_foreign_images(tmp_path: Path) -> None:
    """A folder with images but no manifest is refused, a user's images too; other files do not matter."""
    (tmp_path / "holiday.JPG").write_text("mine")
    with pytest.raises(ValueError, match=r"has images but no samples.json"):
        generate(StubSampler(), [0], tmp_path)
    (tmp_path / "holiday.JPG").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    generate(StubSampler(), [0], tmp_path)
    (tmp_path / "samples.json").unlink()
    with pytest.raises(ValueError, match=r"has images but no samples.json"):
        generate(StubSampler(), [1], tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content", "out", "says"),
    [
        ("samples.json", "{", "", "samples.json is not a valid manifest of samples"),
        ("samples.json", '{"other": 1}', "", "samples.json is not a valid manifest of samples"),
        ("set.npz", "text", "set.npz", "set.npz is not an archive of samples"),
        ("set.zip", "text", "set.zip", "set.zip is not an archive of samples"),
        ("set", "text", "set", "set is a file"),
        ("set.npy", "text", "set.npy", "set.npy is not an archive of samples"),
        ("set-000000.tar", "text", "set.tar", "set-000000.tar is not an archive of samples"),
    ],
    ids=["json", "foreign-json", "npz", "zip", "file", "npy", "tar"],
)
def test_out_is_not_a_set(tmp_path: Path, name: str, content: str, out: str, says: str) -> None:
    """An --out that is not a set of samples is refused and not changed."""
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{re.escape(says)}.*$"):
        generate(StubSampler(), [0], tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"seeds": []}, "no seeds"),
        ({"seeds": [-1]}, "seed -1 is out of range"),
        ({"batch_size": 0}, "batch size 0"),
        ({"rounding": "ceil"}, "unknown rounding 'ceil'"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, Any], says: str) -> None:
    """An invalid argument is refused before anything is written."""
    with pytest.raises(ValueError, match=says):
        generate(StubSampler(), **{"seeds": [0], "out": tmp_path / "set", **arguments})
    assert not (tmp_path / "set").exists()


def test_too_many_images_for_a_zip(tmp_path: Path) -> None:
    """Too many images for a .zip are refused before the first is computed; the message suggests .tar."""
    with pytest.raises(ValueError, match=r"would have 200001 images, but a .zip has at most 200000: use .tar"):
        generate(StubSampler(), range(200_001), tmp_path / "set.zip")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["run-0.5", "v0.2", "lr-0.1e-3", "2024.01.15", "set."])
def test_folder_with_a_dot(tmp_path: Path, out: str) -> None:
    """A number at the end of a folder's name is not treated as a suffix."""
    generate(StubSampler(), [0], tmp_path / out)
    assert (tmp_path / out / "000/000000.png").exists()


@pytest.mark.parametrize("out", ["s.u8", "set.h5", "set.7z", "set.NPZ", "set.tar.gz", "set.parquet"])
def test_unknown_suffix(tmp_path: Path, out: str) -> None:
    """An unknown suffix with a letter is refused; the message lists the known ones. Existing folders are accepted."""
    says = f"no format has the suffix '{Path(out).suffix}'; use .npz, .zip, .tar, .npy, or none for a folder"
    with pytest.raises(ValueError, match=f"{re.escape(says)}$"):
        generate(StubSampler(), [0], tmp_path / out)
    assert not list(tmp_path.iterdir())
    (tmp_path / out).mkdir()
    assert generate(StubSampler(), [0], tmp_path / out).made == 1
