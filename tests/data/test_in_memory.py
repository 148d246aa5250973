# SPDX-License-Identifier: Apache-2.0
"""`read_data`: contents, order, and messages for invalid data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde_fast.data.codecs import encode_png
from scoresde_fast.data.in_memory import read_data
from scoresde_fast.generate.pixels import to_pixels

pytestmark = pytest.mark.same_everywhere

SHAPE = (3, 8, 8)
COUNT = 5
PIXELS = torch.randint(0, 256, (COUNT, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of five PNGs of 8x8, named out of order."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, pixels in zip("baecd", PIXELS.permute(0, 2, 3, 1).numpy(), strict=True):
        (folder / f"{name}.png").write_bytes(encode_png(pixels))
    return folder


def archive_of(folder: Path) -> Path:
    path = folder.with_name("images.zip")
    with ZipFile(path, "w") as archive:
        for image in folder.iterdir():
            archive.write(image, f"inside/{image.name}")
    return path


def npz_of(folder: Path) -> Path:
    path = folder.with_name("images.npz")
    np.savez(path, arr_0=np.stack([np.asarray(Image.open(image)) for image in sorted(folder.iterdir())]))
    return path


@pytest.mark.parametrize(("pack", "names"), [(Path, "abcde"), (archive_of, "abcde"), (npz_of, "01234")])
def test_images_of_any_format(images: Path, pack: Callable[[Path], Path], names: str) -> None:
    """A folder, a .zip and a .npz of the same images give the same data, sorted by name."""
    data, data_names, _ = read_data(str(pack(images)), SHAPE)
    assert [Path(name).stem for name in data_names] == list(names)
    assert data.dtype == torch.uint8
    assert torch.equal(data, PIXELS[["baecd".index(name) for name in "abcde"]])


def test_data_sets_by_name() -> None:
    """A split may follow the name; the default is all images."""
    pytest.importorskip("sklearn")
    sizes = [len(read_data(name, (3, 16, 16)).data) for name in ("digits", "digits:train", "digits:test")]
    assert sizes[0] == 1797 == sizes[1] + sizes[2]
    assert read_data("diamond:test", (2, 1, 1), is_image=False).data.dtype == torch.float32


def test_sampled_points(tmp_path: Path) -> None:
    """Points are read from the .npz that `scoresde-fast sample` writes."""
    points = np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2, 1, 1)
    np.savez(tmp_path / "points.npz", position=points)
    data, names, _ = read_data(str(tmp_path / "points.npz"), (2, 1, 1), is_image=False)
    assert torch.equal(data, torch.from_numpy(points)) and names == ["0", "1", "2"]


def test_palette_images(tmp_path: Path) -> None:
    """Palette images are read as their 8-bit colours."""
    pixels = to_pixels(torch.tensor([[1.0, 0.2, 0.0], [0.0, 1.0, 0.4]]).T.reshape(1, 3, 1, 2), "round")[0]
    Image.fromarray(pixels).quantize(2).save(tmp_path / "a.png")
    assert read_data(str(tmp_path), (3, 1, 2)).data[0].permute(1, 2, 0).tolist() == pixels.tolist()


def save(image: np.ndarray, mode: str | None = None) -> Callable[[Path], None]:
    return lambda folder: Image.fromarray(image, mode).save(folder / "z.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (save(np.zeros((9, 8, 3), np.uint8)), r"a.png is 8x8 with 3 channels, z.png is 9x8 with 3 channels"),
        (
            save(np.zeros((8, 8), np.uint8)),
            r"z.png is 8x8 with 1 channel \(gray\); .* or use .*images@rgb to convert them to RGB",
        ),
        (save(np.zeros((8, 8), np.uint16)), "z.png of .*: the image has 16 bits per channel .mode I;16., but 8-bit"),
        (save(np.zeros((8, 8), bool)), "z.png of .*: the image has 1 bit per channel .mode 1., but 8-bit"),
        (
            save(np.zeros((8, 8, 4), np.uint8)),
            "z.png of .*: the image has an alpha channel .* .mode RGBA., .* use .*images@rgb",
        ),
        (lambda folder: (folder / "z.png").write_bytes(b"text"), "z.png of .*: the image is not a PNG"),
        (
            lambda folder: (folder / "z.png").write_bytes((folder / "a.png").read_bytes()[:100]),
            "z.png of .*: the PNG is truncated or corrupt",
        ),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "images has no images"),
    ],
    ids=["size", "gray", "16-bit", "1-bit", "alpha", "text", "damaged", "empty"],
)
def test_bad_images(images: Path, change: Callable[[Path], Any], message: str) -> None:
    """The message names the image, its fault and the requirement."""
    change(images)
    with pytest.raises(ValueError, match=message):
        read_data(str(images), SHAPE)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("digits:test", ValueError, "digits:test contains images, but the model expects points"),
        ("cifar10", ValueError, "cifar10 contains images, but the model expects points"),
        ("diamon", ValueError, "unknown data set 'diamon' - did you mean 'diamond'"),
        ("none.npz", FileNotFoundError, "no such file or folder: 'none.npz'"),
        ("no/such", FileNotFoundError, "no such file or folder: 'no/such'"),
        (".", ValueError, ". contains no points; use one of diamond, swiss_roll"),
    ],
)
def test_bad_points(source: str, error: type[Exception], message: str) -> None:
    """Sources other than a data set of points or a .npz are refused."""
    with pytest.raises(error, match=message):
        read_data(source, (2, 1, 1), is_image=False)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": np.zeros((2, 8, 8, 3), np.float32)}, r"is float32 with shape .*; floats are \(N, C, H, W\)"),
        ({"arr_0": np.zeros((8, 8, 3), np.uint8)}, r"has shape \(8, 8, 3\); expected images \(N, H, W, C\) of uint8"),
        ({"x": np.zeros(2)}, r"contains x; expected arr_0"),
        ({"arr_0": np.zeros((2, 3, 8, 8), np.uint8)}, "are 3x8 with 8 channels, but the model expects 8x8"),
    ],
    ids=["floats", "one", "name", "order"],
)
def test_bad_arrays(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    """The message gives the array's type or shape and the requirement."""
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_data(str(tmp_path / "a.npz"), SHAPE)
