# SPDX-License-Identifier: Apache-2.0
"""``inpaint``, ``colorize`` and ``restore``: files and one-line error messages."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import scoresde_fast as sf
from scoresde_fast.cli import main
from scoresde_fast.conditions.guidance import simulate
from scoresde_fast.conditions.operators.text import parse_operator
from scoresde_fast.generate.pixels import STRIP, to_pixels
from tests.support.chance import assert_moments
from tests.support.stub_sampler import files
from tests.support.tiny_models import FAST, LOAD, MODEL, OPTIONS, SIZE, read, replace_digits, saved_classifier

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "conditional.md").read_text().partition("## Command line")[2]
COMMANDS = [line for code in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in code.splitlines()]


def random_images(count: int = 2, channels: int = 3, size: int = SIZE) -> np.ndarray:
    """Random images (count, size, size, channels) uint8."""
    return np.random.Generator(np.random.PCG64(0)).integers(0, 256, (count, size, size, channels), np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels).save(path)
    return path


def tensor(pixels: np.ndarray) -> torch.Tensor:
    """(N, H, W, C) uint8 -> (N, C, H, W) in [0, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Two images in photos/ and a mask with an unknown lower half, in a temporary working folder."""
    monkeypatch.chdir(tmp_path)
    pixels = random_images()
    for name, image in zip(("a.png", "b.png"), pixels, strict=True):
        save(tmp_path / "photos" / name, image)
    save(tmp_path / "mask.png", half())
    return pixels


@pytest.fixture
def photos(folder: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The images of `folder`, with a small network in place of MODEL."""
    replace_digits(monkeypatch)
    return folder


def half() -> np.ndarray:
    mask = np.full((SIZE, SIZE), 255, np.uint8)
    mask[SIZE // 2 :] = 0
    return mask


def samples(out: str, each: int = 2) -> np.ndarray:
    """The samples of a and b, in the order of their seeds."""
    names = [f"{'ab'[seed // each]}-{seed:06d}.png" for seed in range(2 * each)]
    return np.stack([read(Path(out) / name) for name in names])


def test_inpaint(photos: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    """Samples equal the library's, known pixels are the image's, and the printed line names the sheet."""
    assert main(["inpaint", MODEL, "photos", "--mask", "mask.png", "--samples", "2", *FAST]) == 0
    assert capsys.readouterr().out.endswith("images/s (folded network, fp32) -> inpainted/sheet.png\n")
    made = samples("inpainted")
    mask = torch.from_numpy(half() == 255)
    wanted = sf.inpaint(sf.load(MODEL), tensor(photos), mask, samples=2, **OPTIONS)
    assert np.array_equal(made, to_pixels(wanted, "round"))
    assert np.array_equal(made[:, :8], photos.repeat(2, axis=0)[:, :8]) and (made[0] != made[1]).any()
    picture = read(Path("inpainted/sheet.png"))
    factor = 800 // (6 * SIZE)
    assert picture.shape == (2 * (STRIP + SIZE * factor + 8), 4 * (SIZE * factor + 4) + 4, 3)
    assert np.array_equal(picture[STRIP + 4 :: factor, 4::factor][:SIZE, :SIZE], photos[0])
    run = json.loads(Path("inpainted/run.json").read_text())["configuration"]
    assert run["command"] == {
        "images": "photos",
        "seeds": "0-3",
        "samples": 2,
        "mask": "mask.png",
        "method": "projection",
    }
    assert run["images"] == ["a.png", "b.png"] and run["sampler"]["condition"][0]["kind"] == "projection"


@pytest.mark.parametrize(("level", "unknown"), [(255, 0), (0, 1)], ids=["all-known", "all-unknown"])
def test_trivial_masks(photos: np.ndarray, level: int, unknown: int) -> None:
    """If everything is known, the image is returned; if nothing is known, the samples are unconditional."""
    save(Path("even.png"), np.full((SIZE, SIZE), level, np.uint8))
    assert main(["inpaint", MODEL, "photos", "--mask", "even.png", "--samples", "2", *FAST]) == 0
    free = to_pixels(sf.sample(sf.load(MODEL), range(4), **OPTIONS), "round")
    assert np.array_equal(samples("inpainted"), free if unknown else photos.repeat(2, axis=0))


def test_masks_of_every_kind(photos: np.ndarray) -> None:
    """A folder has masks by image name; one-bit, palette and opaque-alpha PNGs are equivalent."""
    upper, lower = Image.fromarray(half()), Image.fromarray(255 - half())
    Path("masks").mkdir()
    upper.convert("1").save("masks/a.png")
    lower.convert("RGBA").save("masks/b.png")
    upper.convert("RGB").convert("P").save("palette.png")
    assert main(["inpaint", MODEL, "photos", "--mask", "masks", "--samples", "1", *FAST]) == 0
    made = samples("inpainted", 1)
    assert np.array_equal(made[0, :8], photos[0, :8]) and np.array_equal(made[1, 8:], photos[1, 8:])
    for name in ("palette.png", "mask.png"):
        assert main(["inpaint", MODEL, "photos", "--mask", name, "--samples", "1", "--out", name[:4], *FAST]) == 0
    assert np.array_equal(samples("pale", 1), samples("mask", 1))


def test_single_files_and_sizes(photos: np.ndarray) -> None:
    """A single file is accepted, @16 resizes any photo, and a slash in a name becomes a dash."""
    large = np.kron(random_images(1)[0], np.ones((2, 3, 1), np.uint8))
    save(Path("large.jpg"), large)
    command = ["inpaint", MODEL, "large.jpg@16", "--mask", "mask.png", "--seeds", "7,3", "--samples", "2", *FAST]
    assert main(command) == 0
    assert sorted(files(Path("inpainted"))) == ["large-000003.png", "large-000007.png", "run.json", "sheet.png"]
    save(Path("nested/sub/a.png"), photos[0])
    assert main(["inpaint", MODEL, "nested", "--mask", "mask.png", "--samples", "1", "--out", "b", *FAST]) == 0
    assert Path("b/sub-a-000000.png").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_colorize(photos: np.ndarray, channels: int) -> None:
    """Gray images of one or three channels are coloured as by the library, and keep their gray (within 0.5)."""
    gray = random_images(1, 1)
    save(Path("gray.png"), gray[0].repeat(channels, axis=2))
    assert main(["colorize", MODEL, "gray.png", "--samples", "2", *FAST]) == 0
    made = np.stack([read(Path(f"colorized/gray-00000{seed}.png")) for seed in range(2)])
    wanted = sf.colorize(sf.load(MODEL), tensor(gray), samples=2, **OPTIONS)
    assert np.array_equal(made, to_pixels(wanted, "round"))
    assert np.abs(made.mean(-1) - gray[..., 0]).max() <= 0.5 and made.std(-1).max() > 10


def test_colour_images_are_refused_or_converted(photos: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    """Colour images are refused by name; --to-gray colorizes their mean over the channels."""
    assert main(["colorize", MODEL, "photos", "--samples", "1", *FAST]) == 2
    assert re.search(r"[ab]\.png has colours: .* differ by up to .* of 255; .* --to-gray", capsys.readouterr().err)
    assert not Path("colorized").exists()
    assert main(["colorize", MODEL, "photos", "--to-gray", "--samples", "2", *FAST]) == 0
    wanted = sf.colorize(sf.load(MODEL), tensor(photos).mean(1, keepdim=True), samples=2, **OPTIONS)
    assert np.array_equal(samples("colorized"), to_pixels(wanted, "round"))
    assert read(Path("colorized/sheet.png")).shape[1] == 4 * (8 * SIZE + 4) + 4


@pytest.mark.parametrize("method", ["pigdm", "dps"])
def test_restore(photos: np.ndarray, method: str) -> None:
    """Measurements, here smaller images, are restored as by the library."""
    small = random_images(2, 3, 8)
    for name, image in zip("ab", small, strict=True):
        save(Path(f"small/{name}.png"), image)
    command = ["restore", MODEL, "small", "--operator", "sr:2", "--noise", "0.3", "--scale", "0.5", "--samples", "2"]
    assert main([*command, "--method", method, *FAST]) == 0
    options: dict[str, Any] = {"noise": 0.3, "method": method, "scale": 0.5, "samples": 2, **OPTIONS}
    wanted = sf.restore(sf.load(MODEL), sf.SuperResolution(2), tensor(small), **options)
    assert np.array_equal(samples("restored"), to_pixels(wanted, "round"))


@pytest.mark.statistical
@pytest.mark.parametrize(
    "operator", ["gray", "blur:1.5", "sr:4", "mask:mask.png", "box:4,4,8,8", "random:0.3", "random:0.3,5"]
)
def test_simulated_measurements(photos: np.ndarray, operator: str, run_seed: int) -> None:
    """Measurements are simulated with the given noise, reproducibly, and the sheet shows all three images."""
    command = ["restore", MODEL, "photos", "--operator", operator, "--simulate", "--method", "dps", "--samples", "1"]
    assert main([*command, "--noise", "0.1", "--run-seed", str(run_seed), *FAST]) == 0
    parsed = parse_operator(operator, (3, SIZE, SIZE))
    measured = simulate(parsed, tensor(photos), 0.1, seeds=[0, 1], run_seed=run_seed)
    assert torch.equal(measured, simulate(parsed, tensor(photos), 0.1, seeds=[0, 1], run_seed=run_seed))
    noise = measured - parsed.apply(tensor(photos))
    assert_moments(noise, 0.0, 0.1)
    assert (noise[0] != noise[1]).any()
    wanted = sf.restore(sf.load(MODEL), parsed, measured, method="dps", run_seed=run_seed, **OPTIONS)
    assert np.array_equal(samples("restored", 1), to_pixels(wanted, "round"))
    assert read(Path("restored/sheet.png")).shape[1] == 3 * (8 * SIZE + 4) + 4


def test_unknown_pixels_are_ignored(photos: np.ndarray) -> None:
    """Pixels that the mask excludes do not affect the samples."""
    command = ["restore", MODEL, "photos", "--operator", "mask:mask.png", "--method", "dps", "--samples", "1", *FAST]
    assert main([*command, "--out", "with"]) == 0
    for name, image in zip("ab", photos, strict=True):
        save(Path(f"photos/{name}.png"), np.where(half()[..., None], image, 0).astype(np.uint8))
    assert main([*command, "--out", "without"]) == 0
    assert np.array_equal(samples("with", 1), samples("without", 1))


def test_the_same_command_continues(photos: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    """Finished images are kept, a missing one is sampled again to the same bytes, and another command is refused."""
    command = ["inpaint", MODEL, "photos", "--mask", "mask.png", "--samples", "2", "--batch-size", "3", *FAST]
    assert main(command) == 0
    whole = files(Path("inpainted"))
    Path("inpainted/b-000002.png").unlink()
    kept = Path("inpainted/a-000000.png").stat().st_mtime_ns
    assert main(command) == 0
    assert files(Path("inpainted")) == whole and Path("inpainted/a-000000.png").stat().st_mtime_ns == kept
    assert "3 images already existed" in capsys.readouterr().out
    assert main([*command, "--eps", "0.01"]) == 2
    assert "sampler.eps: none saved, 0.01 requested" in capsys.readouterr().err
    Path("inpainted/run.json").unlink()
    for out in ("inpainted", "photos"):  # the second has the images themselves
        assert main([*command, "--out", out]) == 2
        assert f"{out} has images but no run.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("inpaint M photos --mask small.png", "the mask small.png is 8x8, but the images are 16x16: resize"),
        ("inpaint M photos --mask soft.png", "soft.png has the values 3, 128, 250, but may contain only black"),
        ("inpaint M photos --mask photos/a.png", "the values 1, 2, 3, 4, 5 and 236 more, but may contain only black"),
        ("inpaint M photos --mask red.png", "red.png has colours, but may contain only black"),
        ("inpaint M photos --mask clear.png", "clear.png has transparent pixels; save it as"),
        ("inpaint M photos --mask notes.txt", "notes.txt is not a PNG or is corrupt"),
        ("inpaint M photos --mask gone.png", "no such file or folder: 'gone.png'"),
        ("inpaint M photos --mask photos.d", "there is no mask photos.d/a.png for the image a.png"),
        ("inpaint M gone.png --mask mask.png", "no such file or folder: 'gone.png'"),
        ("inpaint M gone/photos --mask mask.png", "no such file or folder: 'gone/photos'"),
        (
            "inpaint M small.jpg --mask mask.png",
            "small.jpg are 8x8 with 3 channels, but 16x16 with 3 channels is required; use small.jpg@16",
        ),
        ("inpaint M clear.png --mask mask.png", "clear.png: the image has an alpha channel"),
        ("inpaint M gray.png --mask mask.png", "16x16 with 1 channel, but 16x16 with 3 channels is required"),
        (
            "inpaint M photos --mask mask.png --seeds 0-2",
            "3 seeds for 2 images with 4 samples each; give 8, or none",
        ),
        ("inpaint M photos --mask mask.png --samples 0", "samples is 0; it must be an integer of at least 1"),
        ("inpaint M photos --mask mask.png --solver rk45", "takes no condition"),
        ("inpaint nothing photos --mask mask.png", "unknown model 'nothing'"),
        ("colorize M small.jpg", "16x16 with 1 channel or 16x16 with 3 channels is required; use small.jpg@16"),
        ("restore M photos --operator blurr:1", "unknown operator 'blurr' - did you mean 'blur'? choose from: "),
        ("restore M photos --operator blur", "operator 'blur' cannot be parsed; its syntax is blur:STD"),
        ("restore M photos --operator gray:3", "operator 'gray:3' cannot be parsed; its syntax is gray"),
        ("restore M photos --operator sr:2.5", "operator 'sr:2.5' cannot be parsed; its syntax is sr:FACTOR"),
        ("restore M photos --operator box:1,2,3", "its syntax is box:TOP,LEFT,HEIGHT,WIDTH"),
        ("restore M photos --operator sr:3", "choose a factor that divides"),
        ("restore M photos --operator random:2", "the fraction of known pixels, from 0 to 1"),
        ("restore M photos --operator mask:gone.png", "no such file or folder: 'gone.png'"),
        (
            "restore M photos --operator sr:2",
            "but 8x8 with 3 channels is required; use photos@8",
        ),
        ("restore M photos --operator gray", "16x16 with 3 channels, but 16x16 with 1 channel is required"),
        ("restore M photos --operator blur:1 --noise -1", "--noise is -1.0"),
        ("restore M photos --operator blur:1 --scale 0", "scale is 0.0"),
    ],
)
def test_mistakes(photos: np.ndarray, command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake gives exit code 2 and one line on stderr with the value and the fix; nothing is written."""
    save(Path("small.png"), half()[:8, :8])
    save(Path("small.jpg"), random_images(1, 3, 8)[0])
    save(Path("gray.png"), random_images(1, 1)[0])
    soft = half()
    soft[8, :3] = 3, 128, 250
    save(Path("soft.png"), soft)
    save(Path("red.png"), np.stack([half(), half() * 0, half() * 0], axis=-1))
    save(Path("clear.png"), np.stack([half()] * 4, axis=-1))
    Path("notes.txt").write_text("white above, black below")
    Path("photos.d").mkdir()
    before = files(Path())
    assert main([*command.replace(" M ", f" {MODEL} ").split(), *([] if "--solver" in command else FAST)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert files(Path()) == before


def test_models_of_points(photos: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A model of points is refused by name."""
    points = sf.GaussianMixture(sf.load(MODEL).sde, [1.0], torch.zeros(1, 2, 1, 1), [0.5], is_image=False)
    monkeypatch.setattr(LOAD, lambda *_, **__: points)
    assert main(["colorize", "toy", "photos"]) == 2
    assert "toy is a model of points" in capsys.readouterr().err


def test_models_of_gray_images(photos: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A model of gray images is refused."""
    gray = sf.GaussianMixture.gaussian(sf.load(MODEL).sde, 0.5, 0.2, (1, SIZE, SIZE))
    monkeypatch.setattr(LOAD, lambda *_, **__: gray)
    assert main(["colorize", "mono", "photos"]) == 2
    assert "mono generates images with one channel" in capsys.readouterr().err


@pytest.mark.parametrize("line", COMMANDS, ids=[f"{n}-{line.split()[1]}" for n, line in enumerate(COMMANDS)])
def test_commands_of_the_page(folder: np.ndarray, line: str) -> None:
    """Every command of the page runs, with fewer steps and samples."""
    save(Path("photo.png"), folder[0])
    save(Path("small.png"), random_images(1, 3, 8)[0])
    words = shlex.split(line)
    words += ["--steps", "2"]
    if words[1] == "sample":
        digits = saved_classifier(Path("classifier"), classes=tuple(map(str, range(10))))
        words += ["--seeds", "0-3", "--classifier", digits]
    before = files(Path())
    assert words[0] == "scoresde-fast" and main(words[1:]) == 0
    new = set(files(Path())) - set(before)
    assert any(name.endswith(("/sheet.png", ".grid.png")) for name in new) and len(new) >= 6


def test_page_has_every_command() -> None:
    """The page has one of each command."""
    assert {line.split()[1] for line in COMMANDS} == {"inpaint", "colorize", "restore", "sample"}
