# SPDX-License-Identifier: Apache-2.0
"""`open_images`: every format gives the same images in the documented order, without loading all into memory."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import tracemalloc
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde_fast.data import in_memory, load_dataset
from scoresde_fast.data.images import Images
from scoresde_fast.data.in_memory import read_data, training_data
from scoresde_fast.data.sources import open_images
from scoresde_fast.errors import DataWarning
from scoresde_fast.generate import Shard, generate
from tests.support.stub_sampler import OUTS, StubSampler

pytestmark = pytest.mark.same_everywhere

COUNT = 7
PIXELS = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (COUNT, 8, 6, 3), np.uint8)
NAMES = [f"{index:06d}.png" for index in range(COUNT)]


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {name: encoded(pixels) for name, pixels in zip(NAMES, PIXELS, strict=True)}


def folder_of(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def zip_of(path: Path, files: Mapping[str, bytes]) -> Path:
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tar_of(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def gzipped(tar: Path, suffix: str) -> Path:
    path = tar.with_suffix(suffix)
    path.write_bytes(gzip.compress(tar.read_bytes()))
    tar.unlink()
    return path


def npz_of(path: Path, array: np.ndarray = PIXELS) -> Path:
    np.savez_compressed(path, arr_0=array)
    return path


def npy_of(path: Path, array: np.ndarray = PIXELS) -> Path:
    np.save(path, array)
    return path


def shards_of(folder: Path, names: Iterable[str] = ("set-000000.tar", "set-000001.tar")) -> Path:
    for number, name in enumerate(names):
        tar_of(folder / name, dict(list(FILES.items())[4 * number : 4 * number + 4]))
    return folder


SETS: dict[str, Callable[[Path], object]] = {
    "folder": lambda path: folder_of(path / "set", dict(reversed(FILES.items()))),
    "zip": lambda path: zip_of(path / "set.zip", dict(reversed(FILES.items()))),
    "tar": lambda path: tar_of(path / "set.tar", FILES),
    "tar.gz": lambda path: gzipped(tar_of(path / "set.tar", FILES), ".tar.gz"),
    "tgz": lambda path: gzipped(tar_of(path / "set.tar", FILES), ".TGZ"),
    "npz": lambda path: npz_of(path / "set.npz"),
    "npy": lambda path: npy_of(path / "set.npy"),
    "shards": lambda path: shards_of(path) / "set-{000000..000001}.tar",
    "globbed": lambda path: shards_of(path) / "set-*.tar",
    "sampled": lambda path: shards_of(path) / "set.tar",
}


@pytest.mark.parametrize("make", SETS.values(), ids=SETS)
def test_every_format(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """Count, shape, batches and order are the same in each iteration, also if two alternate."""
    source = open_images(str(make(tmp_path)))
    assert (source.count, source.shape) == (COUNT, (3, 8, 6))
    first, second = source.batches(3), source.batches(3)
    for _ in range(2):
        assert torch.equal(next(first).images, next(second).images)
    batches = list(source.batches(3))
    assert [len(batch.names) for batch in batches] == [3, 3, 1] == [len(batch.images) for batch in batches]
    assert all(batch.labels is None and batch.images.dtype == torch.uint8 for batch in batches)
    assert np.array_equal(torch.cat([batch.images for batch in batches]).permute(0, 2, 3, 1), PIXELS)
    names = [name for batch in batches for name in batch.names]
    assert names in (NAMES, [str(index) for index in range(COUNT)])


@pytest.mark.parametrize("pack", [folder_of, zip_of], ids=["folder", "zip"])
class TestNames:
    """Order of the images, and classes from folders."""

    def read(self, path: Path) -> tuple[list[str], list[int] | None]:
        (batch,) = open_images(str(path)).batches(100)
        return batch.names, None if batch.labels is None else batch.labels.tolist()

    def path(self, tmp_path: Path, pack: Callable[..., Path], names: Iterable[str]) -> Path:
        return pack(tmp_path / ("set.zip" if pack is zip_of else "set"), dict.fromkeys(names, FILES[NAMES[0]]))

    def test_classes(self, tmp_path: Path, pack: Callable[..., Path]) -> None:
        """Sibling folders are classes, numbered in the order of their names, also below a common folder."""
        names = ["in/dog/b.png", "in/cat/9.png", "in/dog/a.PNG", "in/cat/10.png"]
        path = self.path(
            tmp_path, pack, [*names, "in/dog/._a.png", "in/.DS_Store", "__MACOSX/in/a.png", "in/Thumbs.db"]
        )
        assert self.read(path) == (sorted(names), [0, 0, 1, 1])

    @pytest.mark.parametrize(
        "names", [["a.png", "b/c.png"], ["a/b.png", "c/d/e.png"], ["a/b.png", "a/c.png"]], ids=["root", "deep", "one"]
    )
    def test_other_folders_are_not_classes(self, tmp_path: Path, pack: Callable[..., Path], names: list[str]) -> None:
        """Images at several depths, or in a single folder, have no labels."""
        assert self.read(self.path(tmp_path, pack, names)) == (names, None)

    def test_samples_are_sorted_by_seed(self, tmp_path: Path, pack: Callable[..., Path]) -> None:
        """The folders of a thousand seeds are not classes, and seeds are compared as integers."""
        names = ["000/000012.png", "999/999999.png", "1000/1000000.png"]
        assert self.read(self.path(tmp_path, pack, names[::-1])) == (names, None)

    def test_seed_like_names_in_classes(self, tmp_path: Path, pack: Callable[..., Path]) -> None:
        """Folders with names that look like seeds are classes, unless each seed is in the folder of its thousand."""
        names = ["0/000001.png", "0/000002.png", "1/000001.png"]
        assert self.read(self.path(tmp_path, pack, names)) == (names, [0, 0, 1])


def test_folders_with_a_manifest_of_something_else(tmp_path: Path) -> None:
    """A samples.json of another program is a file as any other, which is passed over."""
    folder_of(tmp_path, {"samples.json": b"{}", "a/x.png": FILES[NAMES[0]], "b/y.png": FILES[NAMES[1]]})
    with pytest.warns(DataWarning, match="1 file is passed over"):
        (batch,) = open_images(str(tmp_path)).batches(8)
    assert batch.labels is not None and batch.labels.tolist() == [0, 1]


@pytest.mark.parametrize("out", OUTS)
def test_incomplete_sets(tmp_path: Path, out: str) -> None:
    """A set of samples counts only as a whole, and a file that is not of the set does not count."""
    path, seeds = tmp_path / out, range(40)
    generate(StubSampler(), seeds, path, batch_size=8, shard=Shard(0, 2), progress=False)
    if out == "set":
        with pytest.raises(ValueError, match="has 24 of the 40 images that its manifest lists; finish the set"):
            open_images(str(path))
    generate(StubSampler(), seeds, path, batch_size=8, progress=False)
    assert open_images(str(path)).count == 40
    if out == "set":
        for name in ("000/000000 (1).png", "000/000050.png", "000000.png", "mine.png"):
            (path / name).write_bytes((path / "000/000000.png").read_bytes())
            with pytest.raises(ValueError, match=re.escape(f"{name} is not an image of the set")):
                open_images(str(path))
            (path / name).unlink()
    else:
        manifest = path.with_name(f"{out}.samples.json")
        manifest.write_text(manifest.read_text().replace('"0-39"', '"0-49"'))
        with pytest.raises(ValueError, match="has 40 of the 50 images"):
            open_images(str(path))


def test_labels_of_shards(tmp_path: Path) -> None:
    """A sample's .cls file contains its label; other files, and samples without an image, are ignored."""
    files = {"x.png": FILES[NAMES[0]], "x.cls": b"7", "x.json": b"{}", "y.txt": b"", "z.0.PNG": FILES[NAMES[1]]}
    path = tar_of(tmp_path / "a.tar", {**files, "z.cls": b"2\n"})
    with pytest.warns(DataWarning, match=r"a.tar: 1 file is passed over \(1 .txt\), the first is y.txt"):
        source = open_images(str(path))
    (batch,) = source.batches(8)
    assert batch.names == ["x.png", "z.0.PNG"] and batch.labels is not None and batch.labels.tolist() == [7, 2]


@pytest.mark.parametrize("pack", [str, lambda path: str(gzipped(path, ".tar.gz"))], ids=["tar", "tar.gz"])
def test_labels_far_from_their_images(tmp_path: Path, pack: Callable[[Path], str]) -> None:
    """Labels count wherever they are in a shard, before or after the images; system files do not part a sample."""
    names = ["./1.cls", "./0.png", "./._0.png", "./0.json", "./1.png", "./.DS_Store", "./2.png", "./0.cls", "./2.cls"]
    contents = {".png": FILES[NAMES[0]], ".json": b"{}", ".cls": b"", "": b""}
    files = {name: contents[Path(name).suffix] for name in names}
    files |= {f"./{index}.cls": str(5 + index).encode() for index in range(3)}
    source = open_images(pack(tar_of(tmp_path / "a.tar", files)))
    for _ in range(2):
        (batch,) = source.batches(8)
        assert batch.names == ["./0.png", "./1.png", "./2.png"]
        assert batch.labels is not None and batch.labels.tolist() == [5, 6, 7]


@pytest.mark.parametrize("pack", [folder_of, zip_of], ids=["folder", "zip"])
@pytest.mark.parametrize("folder", ["", "set/"])
class TestDatasetJson:
    """EDM's dataset.json in a folder and a .zip, at the top or in a folder with its images."""

    NAMES = ("00000/img00000000.png", "00000/img00000001.png", "00001/img00000002.png")

    def read(self, path: Path, pack: Callable[..., Path], folder: str, labels: object) -> list[int] | None:
        contents = {**dict.fromkeys(self.NAMES, FILES[NAMES[0]]), "dataset.json": json.dumps(labels).encode()}
        path = pack(path / ("a.zip" if pack is zip_of else "a"), {folder + name: contents[name] for name in contents})
        (batch,) = open_images(str(path)).batches(8)
        assert batch.names == [folder + name for name in self.NAMES]
        return None if batch.labels is None else batch.labels.tolist()

    def test_labels(self, tmp_path: Path, pack: Callable[..., Path], folder: str) -> None:
        """Labels are found by name, in any order, with slashes of Windows too."""
        labels = [[self.NAMES[2], 9], [self.NAMES[0].replace("/", "\\"), 6], [self.NAMES[1], 0], ["no/such.png", 1]]
        assert self.read(tmp_path, pack, folder, {"labels": labels}) == [6, 0, 9]

    def test_without_labels(self, tmp_path: Path, pack: Callable[..., Path], folder: str) -> None:
        """Without labels there the folders, of a thousand images each, are no classes."""
        assert self.read(tmp_path, pack, folder, {"labels": None}) is None

    def test_of_another_program(self, tmp_path: Path, pack: Callable[..., Path], folder: str) -> None:
        """A file of that name that does not mention labels is passed over, and the folders are classes."""
        with pytest.warns(DataWarning, match=r"1 file is passed over \(1 .json\)"):
            assert self.read(tmp_path, pack, folder, {"name": "photos"}) == [0, 0, 1]

    @pytest.mark.parametrize("label", [1.5, "cat", [0, 1], -1, True, 1 << 80])
    def test_other_labels(self, tmp_path: Path, pack: Callable[..., Path], folder: str, label: object) -> None:
        """Labels that are no classes are refused, with the form that is needed."""
        with pytest.raises(ValueError, match=r"dataset.json of .* has no valid labels; it needs .*\[\[NAME, INTEGER\]"):
            self.read(tmp_path, pack, folder, {"labels": [[name, label] for name in self.NAMES]})

    def test_missing_label(self, tmp_path: Path, pack: Callable[..., Path], folder: str) -> None:
        """An image without a label is named."""
        with pytest.raises(ValueError, match=r"img00000000.png of .* has a label but .*img00000002.png does not"):
            self.read(tmp_path, pack, folder, {"labels": [[name, 1] for name in self.NAMES[:2]]})


FLOATS = np.linspace(0, 1, COUNT * 3 * 8 * 6, dtype=np.float32).reshape(COUNT, 3, 8, 6)


def with_seeds(path: Path, array: np.ndarray) -> Path:
    npy_of(path / "set.npy", array)
    with open(path / "set.npy", "ab") as file:
        file.write(np.arange(COUNT).tobytes())
    return path / "set.npy"


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_floats(tmp_path: Path, dtype: str) -> None:
    """Floats (N, C, H, W) in [0, 1] are rounded to the nearest of 256 values; the seeds after them are ignored."""
    array = FLOATS.astype(dtype)
    np.savez(tmp_path / "set.npz", position=array, seeds=np.arange(COUNT))
    expected = np.floor(array.astype(np.float32) * 255 + 0.5)
    for path in (npy_of(tmp_path / "plain.npy", array), with_seeds(tmp_path, array), tmp_path / "set.npz"):
        source = open_images(str(path))
        assert (source.count, source.shape) == (COUNT, (3, 8, 6))
        assert np.array_equal(torch.cat([batch.images for batch in source.batches(3)]), expected)
    assert np.array_equal(open_images(str(with_seeds(tmp_path, array)))[torch.tensor([4])][0], expected[4])


@pytest.mark.parametrize("name", ["set", "set.npz", "set.zip", "set.tar", "set.npy"])
def test_sets_that_sample_writes(tmp_path: Path, name: str) -> None:
    """A set in every format that is written gives the same 8-bit images in the order of the seeds."""
    generate(StubSampler(), range(5), tmp_path / name, rounding="round")
    images = read_data(str(tmp_path / name), (3, 4, 5)).data
    assert torch.equal(images / 255, torch.stack([StubSampler().image(seed) for seed in range(5)]))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (2 * FLOATS - 1, "image 0 of .*set.npy has values from -1 to .*; floats are images in .0, 1.: scale them"),
        (np.where(FLOATS > 0.99, np.nan, FLOATS), "image 6 of .*set.npy has values from nan"),
        (
            FLOATS.transpose(0, 2, 3, 1),
            "set.npy is float32 with shape .*; floats are .N, C, H, W. with 1 or 3 ",
        ),
        (FLOATS[:5], "set.npy is corrupt, truncated .*does not match the 5 images"),
    ],
    ids=["range", "nan", "order", "length"],
)
def test_bad_floats(tmp_path: Path, array: np.ndarray, message: str) -> None:
    """The message names the image and its values, or the form of the array, and what is needed."""
    with pytest.raises(ValueError, match=message):
        list(open_images(str(with_seeds(tmp_path, array))).batches(8))


def test_data_sets_have_labels() -> None:
    """The labels of the digits are their classes; points are refused."""
    pytest.importorskip("sklearn")
    source = open_images("digits:test")
    batches = list(source.batches(100))
    labels = torch.cat([batch.labels for batch in batches if batch.labels is not None])
    assert source.count == 364
    assert torch.equal(labels, load_dataset("digits", "test")[1])
    with pytest.raises(ValueError, match="diamond contains points, not images"):
        open_images("diamond")


@pytest.mark.parametrize(
    ("kind", "options", "error"), [("JPEG", {"quality": 95, "subsampling": 0}, 3), ("WebP", {"lossless": True}, 0)]
)
def test_other_encodings(tmp_path: Path, kind: str, options: dict[str, Any], error: int) -> None:
    """JPEG and WebP are recognised by content, not by suffix; a lossless WebP is read exactly."""
    smooth = np.linspace(0, 255, 32 * 32 * 3).reshape(3, 32, 32).transpose(1, 2, 0).astype(np.uint8)
    folder_of(tmp_path, {"a.jpg": encoded(smooth, kind, **options)})
    (batch,) = open_images(str(tmp_path)).batches(8)
    difference = batch.images[0].permute(1, 2, 0).numpy().astype(int) - smooth
    assert np.abs(difference).max() <= error


def test_crop_and_resize(tmp_path: Path) -> None:
    """SOURCE@SIZE crops to the central square and resizes; an image that has this size is not changed."""
    wide = np.full((16, 40, 3), 200, np.uint8)
    wide[:, :12] = wide[:, 28:] = 0
    folder_of(tmp_path, {"exact.png": encoded(PIXELS[0, :6]), "wide.png": encoded(wide)})
    source = open_images(f"{tmp_path}@6")
    (batch,) = source.batches(8)
    assert source.shape == (3, 6, 6)
    assert np.array_equal(batch.images[0].permute(1, 2, 0), PIXELS[0, :6])
    assert batch.images[1].unique().tolist() == [200]
    with pytest.raises(ValueError, match="requests images of 0x0"):
        open_images(f"{tmp_path}@0")


def npz_set(path: Path, array: np.ndarray) -> Path:
    return npz_of(path.with_suffix(".npz"), array)


def npy_set(path: Path, array: np.ndarray) -> Path:
    return npy_of(path.with_suffix(".npy"), array)


def zip_set(path: Path, array: np.ndarray) -> Path:
    return zip_of(path.with_suffix(".zip"), {f"{index:03d}.png": encoded(pixels) for index, pixels in enumerate(array)})


def tar_set(path: Path, array: np.ndarray) -> Path:
    return tar_of(path.with_suffix(".tar"), {f"{index:03d}.png": encoded(pixels) for index, pixels in enumerate(array)})


@pytest.mark.parametrize("pack", [npz_set, npy_set, zip_set, tar_set])
def test_images_are_not_all_in_memory(tmp_path: Path, pack: Callable[[Path, np.ndarray], Path]) -> None:
    """Reading 24 MiB of images four at a time takes less than a fifth of that in memory."""
    array = np.zeros((128, 256, 256, 3), np.uint8)
    path = pack(tmp_path / "big", array)
    tracemalloc.start()
    try:
        assert sum(len(batch.names) for batch in open_images(str(path)).batches(4)) == len(array)
        assert tracemalloc.get_traced_memory()[1] < array.nbytes / 5
    finally:
        tracemalloc.stop()


def test_large_sets_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit, images for training are read on demand, or refused if the format has no random access."""
    monkeypatch.setattr(in_memory, "MAX_BYTES", PIXELS.nbytes - 1)
    npz = str(npz_of(tmp_path / "set.npz"))
    for read in (read_data, training_data):
        with pytest.raises(ValueError, match=r"set.npz take .* GiB, and at most"):
            read(npz, (3, 8, 6))
    indices = torch.tensor([5, 0, 5, 6])
    for source in (str(npy_of(tmp_path / "set.npy")), str(folder_of(tmp_path / "set", FILES))):
        images = training_data(source, (3, 8, 6))
        assert isinstance(images, Images) and len(images) == COUNT
        assert np.array_equal(images[indices].permute(0, 2, 3, 1), PIXELS[indices])
    assert training_data(npz + "@4", (3, 4, 4)).shape == (COUNT, 3, 4, 4)


def test_random_access(tmp_path: Path) -> None:
    """Random access checks the shape of images, and resizes them on request; a .zip has none."""
    files = {"a.png": encoded(PIXELS[0]), "b.png": encoded(PIXELS[0, :6])}
    source = str(folder_of(tmp_path / "set", files))
    images = open_images(source)
    first, second = torch.tensor([0]), torch.tensor([1])
    assert np.array_equal(images[first][0].permute(1, 2, 0), PIXELS[0])
    with pytest.raises(ValueError, match=r"a.png is 8x6 with 3 channels, b.png is 6x6 with 3"):
        images[second]
    assert np.array_equal(open_images(f"{source}@6")[second][0].permute(1, 2, 0), PIXELS[0, :6])
    zipped = open_images(str(zip_of(tmp_path / "set.zip", FILES)))
    assert images.random_access and not zipped.random_access
    with pytest.raises(ValueError, match="only be read sequentially"):
        zipped[first]


def cut(path: Path, fraction: float = 0.5) -> Path:
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    return path


def unclosed(path: Path) -> Path:
    """Truncate a .tar as if its writer was killed between two images."""
    return cut(tar_of(path, FILES), fraction=(COUNT * 1024) / path.stat().st_size)


def with_changed_entry(path: Path, field: int) -> Path:
    """Change the directory entry of a .zip's first file: at 8 it needs a password, at 16 it has another checksum."""
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + field] ^= 1
    path.write_bytes(content)
    return path


def overwritten(path: Path, at: float, length: int = 64) -> Path:
    content = bytearray(path.read_bytes())
    start = int(at * len(content))
    content[start : start + length] = bytes(length)
    path.write_bytes(content)
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zip cut": (lambda p: cut(zip_of(p / "a.zip", FILES)), "a.zip is corrupt, truncated .*not a zip file"),
    "zip overwritten": (lambda p: overwritten(zip_of(p / "a.zip", FILES), 0.1), "a.zip is corrupt, truncated"),
    "zip locked": (
        lambda p: with_changed_entry(zip_of(p / "a.zip", FILES), 8),
        "a.zip is corrupt, .*is encrypted, password required",
    ),
    "zip of text": (
        lambda p: zip_of(p / "a.zip", {"x.png": b"text"}),
        "x.png of .*a.zip: the image is not a PNG, JPEG",
    ),
    "zip empty": (lambda p: zip_of(p / "a.zip", {}), "a.zip has no images"),
    "npz cut": (lambda p: cut(npz_of(p / "a.npz")), "a.npz is corrupt, truncated .*not a zip file"),
    "npz overwritten": (lambda p: overwritten(npz_of(p / "a.npz"), 0.4), "a.npz is corrupt, truncated"),
    "npz checksum": (
        lambda p: with_changed_entry(npz_of(p / "a.npz", np.tile(PIXELS, (1, 9, 9, 1))), 16),
        "a.npz is corrupt, truncated .*Bad CRC-32",
    ),
    "npz shape": (lambda p: npz_of(p / "a.npz", PIXELS[0]), r"arr_0 of .*a.npz has shape \(8, 6, 3\)"),
    "npz channels": (
        lambda p: Path(f"{npz_of(p / 'a.npz', PIXELS[..., :2])}@4"),
        "images with 2 channels cannot be resi",
    ),
    "npy cut": (lambda p: cut(npy_of(p / "a.npy")), r"a.npy is corrupt, truncated .*does not match the 7 images"),
    "npy floats": (
        lambda p: npy_of(p / "a.npy", PIXELS / 255),
        r"a.npy is float64 with shape .*; floats are \(N, C, H, W\)",
    ),
    "npy text": (lambda p: folder_of(p, {"a.npy": b"text"}) / "a.npy", "a.npy has no valid .npy header"),
    "npy order": (lambda p: npy_of(p / "a.npy", np.asfortranarray(PIXELS)), "a.npy is stored in Fortran order"),
    "tar cut": (lambda p: cut(tar_of(p / "a.tar", FILES), 0.36), "a.tar is corrupt, truncated .*unexpected end"),
    "tar unclosed": (lambda p: unclosed(tar_of(p / "a.tar", FILES)), "a.tar is corrupt, .*no zero padding"),
    "tar header": (lambda p: overwritten(tar_of(p / "a.tar", FILES), 0.2), "a.tar is corrupt, .*no zero padding"),
    "tar block": (lambda p: overwritten(tar_of(p / "a.tar", FILES), 0.2, 512), "a.tar is corrupt, .*no zero padding"),
    "gz cut": (lambda p: cut(gzipped(tar_of(p / "a.tar", FILES), ".tar.gz")), "a.tar.gz is corrupt, truncated"),
    "gz header": (
        lambda p: gzipped(overwritten(tar_of(p / "a.tar", FILES), 0.2), ".tar.gz"),
        "a.tar.gz is corrupt, .*no zero padding",
    ),
    "tar of text": (lambda p: folder_of(p, {"a.tar": b"text" * 300}) / "a.tar", "a.tar is corrupt, truncated"),
    "tar empty": (lambda p: tar_of(p / "a.tar", {}), "a.tar has no images"),
    "two images": (
        lambda p: tar_of(p / "a.tar", {"x.a.png": b"", "x.b.png": b""}),
        "x.a.png and x.b.png of .* are one",
    ),
    "label": (lambda p: tar_of(p / "a.tar", {"x.png": b"", "x.cls": b"cat"}), "x.cls of .* is b'cat'; a label is"),
    "labels": (
        lambda p: tar_of(p / "a.tar", {"x.png": FILES[NAMES[0]], "x.cls": b"1", "y.png": FILES[NAMES[0]]}),
        "x.png of .* has a label but y.png does not",
    ),
    "sizes": (
        lambda p: folder_of(p / "a", {"x.png": encoded(PIXELS[0]), "y.png": encoded(PIXELS[0, 1:])}),
        r"x.png is 8x6 with 3 channels, y.png is 7x6 with 3 channels; .* or .*a@SIZE to crop",
    ),
    "jpeg cut": (
        lambda p: folder_of(p / "a", {"x.jpg": encoded(np.tile(PIXELS[0], (9, 9, 1)), "JPEG")[:900]}),
        "x.jpg of .*a: the JPEG is corrupt",
    ),
    "cmyk": (
        lambda p: folder_of(p / "a", {"x.jpg": encoded_as("CMYK", "JPEG")}),
        "x.jpg of .*: the image has CMYK colours, but 8-bit gray or RGB is required; use .*a@rgb to convert",
    ),
    "alpha": (
        lambda p: folder_of(p / "a", {"x.webp": encoded_as("RGBA", "WebP")}),
        "x.webp of .*: the image has an alpha channel",
    ),
    "folder empty": (
        lambda p: folder_of(p / "a", {"notes.txt": b""}),
        r"a has no images: 1 file is passed over \(1 .txt\), the first is notes.txt",
    ),
    "suffix": (lambda p: folder_of(p, {"a.rar": b""}) / "a.rar", "a.rar cannot be read; use a data set, a folder"),
    "split": (lambda p: Path(f"{folder_of(p / 'a', FILES)}:test"), "a has no splits; remove :test"),
    "range": (lambda p: p / "a-{3..1}.tar", r"the range \{3..1\} in .* is empty"),
    "long range": (lambda p: p / "a-{0..9999}-{0..9999}.tar", "stands for 100000000 shards; at most 1000000 are"),
    "conversion": (lambda p: Path(f"{folder_of(p / 'a', FILES)}@gray"), "'@gray'; it may be @SIZE, @rgb or @SIZE,rgb"),
}


def encoded_as(mode: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8), (10, 20, 30, 40)).save(buffer, kind, lossless=True)
    return buffer.getvalue()


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_sources(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    """The message names the file, its fault and the requirement, in one line."""
    source = str(make(tmp_path))
    with pytest.raises(ValueError, match=message) as caught:
        for _ in open_images(source).batches(2):
            pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such", "no such file or folder: 'no/such'"),
        ("none.npz", "no such file or folder: 'none.npz'"),
        ("none-{00..03}.tar", "there is no shard none-00.tar"),
        ("none-*.tar", r"there is no shard none-\*.tar"),
        ("begun.tar", r"there is no shard begun.tar; the set is not finished: run its command again"),
    ],
)
def test_missing_sources(source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the missing file."""
    monkeypatch.chdir(tmp_path)
    Path("begun.tar.samples.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=message):
        open_images(source)


def test_misspelt_data_set() -> None:
    """The message for an unknown name suggests the nearest data set."""
    with pytest.raises(ValueError, match="unknown data set 'cifar' - did you mean 'cifar10'"):
        open_images("cifar")
    with pytest.raises(ValueError, match="unknown data set ''; choose from"):
        open_images("")
