# SPDX-License-Identifier: Apache-2.0
"""Likelihoods and codes: their files and the commands that write them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import scoresde_fast as sf
from scoresde_fast.cli import main
from scoresde_fast.data.codecs import encode_png
from scoresde_fast.flow.integrate import IntegrationError
from scoresde_fast.flow.likelihood import LikelihoodEstimator
from scoresde_fast.generate.likelihoods import write_likelihoods
from scoresde_fast.generate.pixels import to_pixels
from scoresde_fast.generate.states import CodeImages, seed_codes, write_codes
from scoresde_fast.sdes import CLDSDE, SDE, VPSDE
from tests.support.tiny_models import LOAD

SHAPE = (3, 8, 8)
LOOSE = ["--rtol", "1e-2", "--atol", "1e-2"]
COUNT = 5
FEW: dict[str, Any] = {"probes": 2, "steps": 2, "batch_size": 2}
"""Options of a fast, inaccurate estimator."""


def gaussian(std: float = 0.25) -> sf.GaussianMixture:
    return sf.GaussianMixture.gaussian(VPSDE(), 0.5, std, SHAPE)


def random_images(count: int = COUNT) -> torch.Tensor:
    """Images (count, *SHAPE) uint8."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def estimator() -> LikelihoodEstimator:
    return LikelihoodEstimator(gaussian(), **FEW)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved small network on CLD with fresh weights, for images of 8x8."""
    torch.manual_seed(0)
    options = {
        "model": {"name": "ncsnpp", "nf": 8, "ch_mult": [1, 1], "num_res_blocks": 1, "num_scales": 0, "dropout": 0.0},
        "data": {"image_size": 8, "centered": True},
        "training": {"sde": "cld"},
    }
    folder = tmp_path_factory.mktemp("tiny")
    sf.create(options).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of five PNGs of 8x8, named out of order."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, pixels in zip("baecd", random_images().permute(0, 2, 3, 1).numpy(), strict=True):
        (folder / f"{name}.png").write_bytes(encode_png(pixels))
    return folder


def write(estimator: LikelihoodEstimator, out: Path, **options: Any) -> Any:
    data = options.pop("data", random_images())
    return write_likelihoods(estimator, data, [f"image {i}" for i in range(len(data))], out, **options)


def test_every_image_has_a_line(estimator: LikelihoodEstimator, tmp_path: Path) -> None:
    """Lines and mean equal the estimator's values, in order, including the last, smaller batch."""
    summary = write(estimator, tmp_path / "results.jsonl", first_seed=7)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(line["name"], line["seed"]) for line in lines] == [(f"image {i}", 7 + i) for i in range(COUNT)]
    alone = estimator.estimate(random_images(), range(7, 7 + COUNT))
    assert alone.bits_per_dim is not None and alone.standard_error is not None
    for key in ("bits_per_dim", "log_density", "standard_error", "evaluations"):
        assert [line[key] for line in lines] == pytest.approx(getattr(alone, key).tolist(), rel=1e-9)
    assert summary.mean == pytest.approx(float(alone.bits_per_dim.mean()))
    assert summary.standard_error == pytest.approx(float(alone.bits_per_dim.std()) / COUNT**0.5)
    assert (summary.made, summary.found) == (COUNT, 0)


@pytest.mark.parametrize("kept", range(COUNT + 1))
def test_a_killed_run_continues(
    estimator: LikelihoodEstimator, tmp_path: Path, kept: int, whole_run: dict[str, bytes]
) -> None:
    """After a kill that left ``kept`` whole lines and part of the next, the same call completes the file exactly."""
    lines = whole_run["results.jsonl"].splitlines(keepends=True)
    torn = lines[kept][:20] if kept < COUNT else b""
    (tmp_path / "results.jsonl").write_bytes(b"".join(lines[:kept]) + torn)
    (tmp_path / "results.jsonl.settings.json").write_bytes(whole_run["results.jsonl.settings.json"])
    summary = write(estimator, tmp_path / "results.jsonl")
    assert (summary.made, summary.found) == (COUNT - kept, kept)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole_run


@pytest.fixture(scope="module")
def whole_run(estimator: LikelihoodEstimator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    write(estimator, folder / "results.jsonl")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_batches_are_written_one_by_one(
    estimator: LikelihoodEstimator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: dict[str, bytes]
) -> None:
    """An error in the third batch leaves two batches in the file and names the seed; the same call completes it."""
    estimate, out = estimator.estimate, tmp_path / "results.jsonl"

    def failing(data: torch.Tensor, seeds: list[int]) -> Any:
        if 4 in seeds:
            raise IntegrationError(0, "stopped", data.flatten(1), data.flatten(1)[:, 0]).with_seeds(seeds)
        return estimate(data, seeds)

    monkeypatch.setattr(estimator, "estimate", failing)
    with pytest.raises(IntegrationError, match="the sample of seed 4 stopped"):
        write(estimator, out)
    assert out.read_bytes() == b"".join(whole_run["results.jsonl"].splitlines(keepends=True)[:4])
    monkeypatch.undo()
    write(estimator, out)
    assert out.read_bytes() == whole_run["results.jsonl"]


def test_a_larger_limit_appends(estimator: LikelihoodEstimator, tmp_path: Path) -> None:
    """A limit takes the first images; a larger one appends, a smaller one changes nothing."""
    out = tmp_path / "results.jsonl"
    assert write(estimator, out, limit=3).made == 3
    first = out.read_bytes()
    again = write(estimator, out, limit=2)
    assert (again.made, again.found) == (0, 2) and out.read_bytes() == first
    assert "all already existed" in str(again)
    assert write(estimator, out).made == COUNT - 3
    assert out.read_bytes().startswith(first) and out.read_bytes().count(b"\n") == COUNT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_seed": 1}, "first_seed: 0 saved, 1 requested"),
        ({"data": random_images() // 2}, "data_sha256: "),
        ({"model": gaussian(0.3)}, "flow.model.weights_sha256: "),
        ({"probes": 3}, "probes.count: 2 saved, 3 requested"),
        ({"probe": "normal"}, 'probes.kind: "rademacher" saved, "normal" requested'),
        ({"rtol": 1e-3}, "flow.rtol: 1e-05 saved, 0.001 requested"),
        ({"steps": 4}, "flow.steps: 2 saved, 4 requested"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_settings_are_refused(
    tmp_path: Path, whole_run: dict[str, bytes], change: dict[str, Any], message: str
) -> None:
    """Other settings are refused: the difference is named, and no byte changes."""
    for name, content in whole_run.items():
        (tmp_path / name).write_bytes(content)
    options = {**FEW, **change}
    stream = {name: options.pop(name) for name in ("first_seed", "data") if name in options}
    other = LikelihoodEstimator(options.pop("model", gaussian()), **options)
    with pytest.raises(ValueError, match=f"another configuration .*{re.escape(message)}.*--out"):
        write(other, tmp_path / "results.jsonl", **stream)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole_run


def test_another_batch_size_continues(tmp_path: Path, whole_run: dict[str, bytes]) -> None:
    """The batch size may change, unless the error norm of the batch determines the steps."""
    for name, content in whole_run.items():
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "results.jsonl"
    assert write(LikelihoodEstimator(gaussian(), **{**FEW, "batch_size": 3}), out).found == COUNT
    options: dict[str, Any] = {"rtol": 0.1, "atol": 0.1, "error_norm": "batch"}
    write(LikelihoodEstimator(gaussian(), **options, batch_size=3), tmp_path / "batch.jsonl", limit=3)
    with pytest.raises(ValueError, match=r"flow\.batch_size: 3 saved, 2 requested"):
        write(LikelihoodEstimator(gaussian(), **options, batch_size=2), tmp_path / "batch.jsonl")


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (b'{"seed": 0}\n', True, "line 1 of .* is not the result of seed 0"),
        (b"text\n", True, "line 1 of .* is not the result of seed 0"),
        (b"a shopping list", False, "results.jsonl has results but no results.jsonl.settings.json"),
    ],
    ids=["lines", "text", "foreign"],
)
def test_other_files_are_unchanged(
    estimator: LikelihoodEstimator,
    tmp_path: Path,
    whole_run: dict[str, bytes],
    content: bytes,
    settings: bool,
    message: str,
) -> None:
    """A file without results is refused and left unchanged."""
    (tmp_path / "results.jsonl").write_bytes(content)
    if settings:
        (tmp_path / "results.jsonl.settings.json").write_bytes(whole_run["results.jsonl.settings.json"])
    with pytest.raises(ValueError, match=message):
        write(estimator, tmp_path / "results.jsonl")
    assert (tmp_path / "results.jsonl").read_bytes() == content


@pytest.mark.parametrize("change", [{"limit": 0}, {"first_seed": -1}], ids=["limit", "seed"])
def test_numbers_out_of_range(estimator: LikelihoodEstimator, tmp_path: Path, change: dict[str, int]) -> None:
    """Invalid numbers are named, and nothing is written."""
    with pytest.raises(ValueError, match=f"{next(iter(change.values()))}"):
        write(estimator, tmp_path / "results.jsonl", **change)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["likelihood", "MODEL", "digit"], "unknown data set 'digit' - did you mean 'digits'?"),
        (["likelihood", "MODEL", "no/such"], "no such file or folder: 'no/such'"),
        (["likelihood", "MODEL", "digits:tset"], "unknown split 'tset' - did you mean 'test'?"),
        (["likelihood", "MODEL", "digits"], "are 16x16 with 3 channels, but the model expects 8x8 with 3 channels"),
        (["likelihood", "MODEL", "diamond"], "diamond contains points, but the model expects images"),
        (["likelihood", "MODEL", "IMAGES", "--probes", "0"], "the number of probes is 0"),
        (["likelihood", "MODEL", "IMAGES", "--probe", "exact", "--probes", "2"], "the exact trace uses none"),
        (["likelihood", "MODEL", "IMAGES", "--grid", "cubic", "--steps", "3"], "unknown time grid 'cubic'"),
        (["likelihood", "MODEL", "IMAGES", "--threads", "0"], "--threads is 0"),
        (["encode", "MODEL", "IMAGES", "--out", "codes.png"], "codes are written to one .npz file"),
        (["decode", "MODEL", "IMAGES/a.png"], "a.png contains no codes"),
        (["interpolate", "MODEL", "--seeds", "3"], "needs at least two seeds"),
        (["interpolate", "MODEL", "--seeds", "3,7", "--steps", "1"], "steps is 1"),
        (["interpolate", "MODEL", "--seeds", "3,7", "--out", "grid"], "its suffix must be .png"),
        (
            ["sample", "MODEL", "--solver", "sscs", "--rtol", "1e-3"],
            "rtol is 0.001, but only the solvers 'rk45' and 'ggf'",
        ),
        (["sample", "MODEL", "--solver", "ggf"], "solver 'ggf' is not defined on the SDE 'cld'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(
    tiny: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """A mistake gives one line on stderr and exit code 2; nothing is written."""
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main([word.replace("MODEL", tiny).replace("IMAGES", str(images)) for word in arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_failed_integration_gives_one_line(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`IntegrationError` gives one line like other mistakes; a division by zero is a bug and is raised."""
    model = gaussian()
    score = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda x, t: score(x, t) * (1 if t.max() < 0.5 else float("nan")))
    monkeypatch.setattr(LOAD, lambda *_, **__: model)
    codes = tmp_path / "codes.npz"
    assert main(["encode", "broken", str(images), *LOOSE, "--out", str(codes)]) == 2
    printed = capsys.readouterr()
    assert "NaN" in printed.err and printed.err.count("\n") == 1 and not codes.exists()
    monkeypatch.setattr(LOAD, lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["encode", "broken", str(images)])


def test_likelihood_command(tiny: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every image has a line, also on CLD; the last printed line is the mean; a second call computes nothing."""
    out = tmp_path / "sub" / "results.jsonl"
    command = ["likelihood", tiny, str(images), "--out", str(out), "--batch-size", "2", "--steps", "2"]
    assert main([*command, "--limit", "3"]) == 0
    assert main(command) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["name"] for line in lines] == [f"{name}.png" for name in "abcde"]
    assert [line["seed"] for line in lines] == list(range(COUNT))
    assert all(set(line) == {"name", "seed", "bits_per_dim", "log_density", "evaluations"} for line in lines)
    mean = np.mean([line["bits_per_dim"] for line in lines])
    assert f"mean {mean:.4f} bits/dim (an upper bound), standard error " in capsys.readouterr().out.splitlines()[-1]
    assert main(command) == 0
    assert "all already existed" in capsys.readouterr().out


def test_likelihood_of_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Points have a log density and no bits per dimension."""
    torch.manual_seed(0)
    sf.create("cld_toy").save_pretrained(tmp_path / "toy")
    out = tmp_path / "results.jsonl"
    command = ["likelihood", str(tmp_path / "toy"), "swiss_roll:test", "--limit", "3", "--steps", "2"]
    assert main([*command, "--out", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [set(line) for line in lines] == [{"name", "seed", "log_density", "evaluations"}] * 3
    assert "nats of log density (a lower bound)" in capsys.readouterr().out


def test_encode_and_decode_commands(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Encoded images are decoded to the same 8-bit pixels, to a folder and to one file, named by index."""
    monkeypatch.setattr(LOAD, lambda *_, **__: gaussian())
    codes, tight, exact = tmp_path / "codes.npz", ["--rtol", "1e-6", "--atol", "1e-6"], "exact"
    assert main(["encode", exact, str(images), "--out", str(codes), *tight]) == 0
    with np.load(codes) as archive:
        assert archive["codes"].shape == (COUNT, *SHAPE) and archive["codes"].dtype == np.float32
        assert archive["names"].tolist() == [f"{name}.png" for name in "abcde"]
    assert main(["encode", exact, str(images), "--out", str(codes)]) == 2
    assert "codes.npz already exists" in capsys.readouterr().err
    assert main(["decode", exact, str(codes), "--out", str(tmp_path / "back"), *tight]) == 0
    assert main(["decode", exact, str(codes), "--out", str(tmp_path / "back.npz"), *tight]) == 0
    original = np.stack([np.asarray(Image.open(path)) for path in sorted(images.iterdir())])
    back = np.stack([np.asarray(Image.open(tmp_path / "back/000" / f"{index:06d}.png")) for index in range(COUNT)])
    assert np.array_equal(original, back)
    with np.load(tmp_path / "back.npz") as archive:
        assert np.array_equal(archive["arr_0"], back)


def test_decoding_continues_with_its_settings(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A set of decoded images has one temperature and one file of codes; a missing image is decoded again."""
    model = sf.load(tiny)
    write_codes(tmp_path / "codes.npz", seed_codes(model, range(3)), "abc")
    out = tmp_path / "set"
    command = ["decode", tiny, str(tmp_path / "codes.npz"), "--out", str(out), "--batch-size", "2", *LOOSE]
    assert main([*command, "--temperature", "0.8"]) == 0
    whole = {path.name: path.read_bytes() for path in out.rglob("*.*")}
    pixels = np.asarray(Image.open(out / "000/000001.png")).astype(int)
    (out / "000/000001.png").unlink()
    assert main([*command, "--temperature", "0.8"]) == 0
    again = {path.name: path.read_bytes() for path in out.rglob("*.*")}
    assert np.abs(np.asarray(Image.open(out / "000/000001.png")) - pixels).max() <= 1  # batch of one: last bit
    for name in ("000001.png", "samples.sha256"):
        del whole[name], again[name]
    assert again == whole
    assert main(command) == 2
    assert "sampler.temperature: 0.8 saved, 1.0 requested" in capsys.readouterr().err
    write_codes(tmp_path / "codes.npz", seed_codes(model, range(1, 4)), "abc")
    assert main([*command, "--temperature", "0.8"]) == 2
    assert "sampler.codes_sha256" in capsys.readouterr().err


@pytest.mark.parametrize("sde", [VPSDE(), CLDSDE()], ids=["vp", "cld"])
def test_points_are_decoded_to_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sde: SDE) -> None:
    """Codes of points are decoded to the same positions; on CLD the codes include a velocity."""
    exact = sf.GaussianMixture(sde, [1.0], torch.zeros(1, 2, 1, 1), [0.5], is_image=False)
    monkeypatch.setattr(LOAD, lambda *_, **__: exact)
    points = np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2, 1, 1)
    np.savez(tmp_path / "points.npz", position=points)
    paths = {name: str(tmp_path / name) for name in ("points.npz", "codes.npz", "back.npz")}
    assert main(["encode", "exact", paths["points.npz"], "--out", paths["codes.npz"]]) == 0
    assert main(["decode", "exact", paths["codes.npz"], "--out", paths["back.npz"]]) == 0
    with np.load(paths["codes.npz"]) as codes, np.load(paths["back.npz"]) as back:
        assert codes["codes"].shape == (3, 2 * sde.parts, 1, 1)
        assert np.abs(points - back["position"]).max() < 1e-3


def test_the_temperature_scales_the_codes() -> None:
    """For a Gaussian with mean 0 the flow is linear: images are codes times the ratio of the stds at its ends."""
    sde = VPSDE()
    points = sf.GaussianMixture(sde, [1.0], torch.zeros(1, *SHAPE), [0.5], is_image=False)
    codes = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    scale, std = sde.marginal(np.array([1e-3, 1.0]))
    eps, start = np.hypot(scale * 0.5, std)
    for temperature in (1.0, 0.5):
        images = CodeImages(points, codes, temperature=temperature, eps=1e-3, rtol=1e-6, atol=1e-6)
        wanted = temperature * eps / start * codes
        assert (images.sample([0, 1]) - wanted).abs().max() <= 1e-5


def test_interpolate_command(tiny: str, tmp_path: Path) -> None:
    """There is a row for each pair of seeds, and its ends are the decoded codes of the seeds."""
    out = tmp_path / "sub" / "interpolation.png"
    assert main(["interpolate", tiny, "--seeds", "3,7,5", "--steps", "4", "--out", str(out), *LOOSE]) == 0
    grid = np.asarray(Image.open(out))
    factor = 800 // (4 * 8)
    assert grid.shape == (2 * (8 * factor + 4) + 4, 4 * (8 * factor + 4) + 4, 3)
    model = sf.load(tiny)
    ends = to_pixels(sf.decode(model, seed_codes(model, [3, 7, 5]), rtol=1e-2, atol=1e-2), "round").astype(int)
    cells = grid[4:, 4:].reshape(2, 8 * factor + 4, 4, 8 * factor + 4, 3)
    cells = cells[:, : 8 * factor : factor, :, : 8 * factor : factor]
    for row, (left, right) in enumerate([(0, 1), (1, 2)]):
        assert np.abs(cells[row, :, 0] - ends[left]).max() <= 1 and np.abs(cells[row, :, 3] - ends[right]).max() <= 1
    assert isinstance(model.sde, CLDSDE)


@pytest.mark.parametrize(
    ("options", "norm"), [(["--error-norm", "batch"], "batch"), ([], "sample")], ids=["batch", "sample"]
)
def test_sampling_by_tolerances(tiny: str, tmp_path: Path, options: list[str], norm: str) -> None:
    """--solver rk45 takes tolerances and an error norm, and the set's description records them."""
    out = tmp_path / "set.npz"
    assert main(["sample", tiny, "--solver", "rk45", "--seeds", "0-2", "--out", str(out), *LOOSE, *options]) == 0
    described = json.loads((tmp_path / "set.npz.samples.json").read_text())["configuration"]["sampler"]
    assert described.items() >= {"rtol": 1e-2, "atol": 1e-2, "error_norm": norm}.items()
    assert np.load(out)["arr_0"].shape == (3, 8, 8, 3)
