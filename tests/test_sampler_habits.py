# SPDX-License-Identifier: Apache-2.0
"""Habits of other libraries: numbers of images, progress, callbacks, trajectories, own noise, and arrays."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import scoresde_fast as sf
from scoresde_fast.data.arrays import as_tensor
from scoresde_fast.sdes import VPSDE
from tests.support.own_networks import SHAPE, mixture


@pytest.fixture
def model() -> sf.GaussianMixture:
    return mixture(VPSDE())


def test_numbers_of_other_libraries(model: sf.GaussianMixture) -> None:
    """A number of images stands for the first seeds; numbers and seeds may be of NumPy and torch."""
    expected = sf.sample(model, range(4), solver="ddim", steps=5, run_seed=3)
    numbers: dict[str, Any] = {"steps": np.int64(5), "run_seed": torch.tensor(3), "batch_size": np.int32(64)}
    kinds: tuple[Any, ...] = (
        4,
        np.int64(4),
        torch.tensor(4),
        np.arange(4),
        torch.arange(4),
        [np.uint8(i) for i in range(4)],
    )
    for seeds in kinds:
        assert torch.equal(sf.sample(model, seeds, solver="ddim", **numbers), expected)
    assert torch.equal(sf.Sampler(model, "ddim", 5, run_seed=3).sample(4), expected)
    eta = sf.Sampler(model, "ddim", 5, eta=np.float32(0.5), eps=torch.tensor(0.01)).options
    assert isinstance(eta, sf.SolverOptions) and type(eta.eta) is float and type(eta.eps) is float


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (range(10**12), r"seeds is range\(0, 1000000000000\); at most 100000000 images are sampled in one call"),
        (range(10**20), "at most 100000000 images are sampled in one call: scoresde_fast.generate writes sets"),
        (10**12, "at most 100000000 images are sampled in one call"),
        (0, r"seeds is 0, a number of images; give at least 1, or \[0\] for the image of seed 0"),
        ([1.5], "seed 1.5 is out of range: choose an integer from 0"),
        (torch.tensor([1.5]), r"seed tensor\(1.5000\) is out of range"),
        (np.zeros((2, 2), dtype=int), "seed .* is out of range"),
        ([2**63], "seed 9223372036854775808 is out of range"),
        ([True], "seed True is out of range"),
        (2.0, "seeds is 2.0; pass a number of images or a sequence"),
        ("0-3", "seeds is '0-3'; pass a number of images"),
    ],
)
def test_wrong_seeds(model: sf.GaussianMixture, seeds: Any, message: str) -> None:
    """What is no seed is refused in a sentence that shows it, in every function that takes seeds."""
    with pytest.raises(ValueError, match=message):
        sf.sample(model, seeds, solver="ddim", steps=3)
    with pytest.raises(ValueError, match=message):
        sf.encode(model, torch.zeros(1, *SHAPE), seeds=seeds)


def test_classes_of_arrays() -> None:
    """Classes may be one class, a list, an array or a tensor."""
    model = sf.load("digits-vp")
    options: dict[str, Any] = {"classifier": "digits-classifier", "solver": "ddim", "steps": 2}
    expected = sf.sample(model, classes=[3, 1], **options)
    several: tuple[Any, ...] = (torch.tensor([3, 1]), np.array([3, 1]), np.array(["3", "1"]), ("3", 1))
    for classes in several:
        assert torch.equal(sf.sample(model, classes=classes, **options), expected)
    assert torch.equal(sf.sample(model, classes=3, **options), sf.sample(model, classes=[3], **options))
    with pytest.raises(ValueError, match=r"unknown class '1\.5'"):
        sf.sample(model, classes=torch.tensor([1.5]), **options)


def test_one_time_of_the_score(model: sf.GaussianMixture) -> None:
    """The score at one time, as a number or a tensor, is that at the same time for each sample."""
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    expected = model.score(x, torch.full((3,), 0.5))
    times: tuple[Any, ...] = (0.5, np.float64(0.5), torch.tensor(0.5), torch.tensor([0.5]), [0.5, 0.5, 0.5])
    for t in times:
        assert torch.equal(model.score(x, t), expected)
        assert torch.equal(model.probability_flow(x, t), model.probability_flow(x, torch.full((3,), 0.5)))
    with pytest.raises(ValueError, match=r"t has shape \(2,\); it must be one time, or one for each of the 3 samples"):
        model.score(x, torch.tensor([0.5, 0.6]))
    with pytest.raises(ValueError, match="t is 'x'; it must be a time"):
        model.score(x, "x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("solver", "suggestion"),
    [
        ("DDIM", "ddim"),
        ("DPM++2M", "dpmpp_2m"),
        ("UniPC", "unipc"),
        ("RK45", "rk45"),
        ("Euler-Maruyama", "euler_maruyama"),
    ],
)
def test_capital_letters(model: sf.GaussianMixture, solver: str, suggestion: str) -> None:
    """The name of a paper gets the name here."""
    with pytest.raises(ValueError, match=re.escape(f"unknown solver {solver!r} - did you mean {suggestion!r}?")):
        sf.sample(model, 2, solver=solver)


def test_codes_of_arrays(model: sf.GaussianMixture) -> None:
    """Codes may be arrays; a temperature that is no number is refused."""
    codes, options = np.random.default_rng(0).normal(size=(2, *SHAPE)), {"rtol": 0.1, "atol": 0.1}
    assert torch.equal(sf.decode(model, codes, **options), sf.decode(model, torch.from_numpy(codes), **options))
    a, b = torch.from_numpy(codes)
    assert torch.equal(sf.interpolate(codes[0], codes[1], 3), sf.interpolate(a, b, 3))
    temperatures: tuple[Any, ...] = ("a", None, 0, float("nan"), True)
    for temperature in temperatures:
        with pytest.raises(ValueError, match=f"temperature is {temperature!r}; it must be a finite number"):
            sf.decode(model, codes, temperature=temperature)


@pytest.mark.parametrize("state", ["default dtype", "default device"])
def test_loading_in_a_global_state_of_torch(state: str) -> None:
    """Models and classifiers load on the CPU in float32, whatever the default dtype and device."""
    options: dict[str, Any] = {"classes": [3], "classifier": "digits-classifier", "solver": "ddim", "steps": 2}
    expected = sf.sample(sf.load("digits-vp"), **options)
    try:
        if state == "default dtype":
            torch.set_default_dtype(torch.float64)
        else:
            torch.set_default_device("meta")
        images = sf.sample(sf.load("digits-vp"), **options)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert images.device.type == "cpu" and torch.equal(images, expected)


@pytest.mark.parametrize(
    ("options", "suggestion"),
    [
        ({"num_steps": 20}, "steps"),
        ({"num_inference_steps": 20}, "steps"),
        ({"scheduler": "ddim"}, "solver"),
        ({"timesteps": [1, 0.5]}, "grid"),
        ({"seed": 1}, "run_seed"),
        ({"class_labels": [1]}, "inputs"),
        ({"guidance_scale": 2}, "guidance"),
        ({"stepss": 5}, "steps"),
    ],
)
def test_names_of_other_libraries(model: sf.GaussianMixture, options: dict[str, Any], suggestion: str) -> None:
    """An option's name in another library gets the name here."""
    (name,) = options
    with pytest.raises(TypeError, match=f"unknown option {name!r} - did you mean {suggestion!r}"):
        sf.Sampler(model, **options)


def test_own_noise(model: sf.GaussianMixture) -> None:
    """Noise of one's own replaces that of the prior, sample by sample, in every solver; its shape is checked."""
    noise = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(0))
    solvers: dict[str, dict[str, Any]] = {"ddim": {"steps": 6}, "rk45": {"rtol": 1e-3, "atol": 1e-3}}
    for solver, options in solvers.items():
        sampler = sf.Sampler(model, solver, batch_size=2, **options)
        images = sampler.sample(16, noise=noise)
        (again,) = sampler.sample([77], noise=noise[3:4])
        torch.testing.assert_close(again, images[3], rtol=0, atol=1e-5)
        assert not torch.allclose(images, sampler.sample(16))
    with pytest.raises(ValueError, match=re.escape("noise has shape (16, 2, 2, 2); for these seeds it must be (4,")):
        sampler.sample(4, noise=noise)
    with pytest.raises(ValueError, match=r"noise has the standard deviation \d+\.?\d*; it must be standard normal"):
        sampler.sample(16, noise=80 * noise)
    assert torch.equal(sampler.sample(16, noise=noise.numpy()), sampler.sample(16, noise=noise))
    with pytest.raises(TypeError, match=r"'callback' is an argument of sample\(\): pass it there"):
        sf.Sampler(model, callback=print)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("solver", ["ddim", "pc", "unipc"])
def test_callback(model: sf.GaussianMixture, solver: str, strict: bool) -> None:
    """Each step of each batch is reported with its time, noise, states and exact denoised estimate."""
    number, grid = (60, "uniform") if solver == "pc" else (6, "karras")
    sampler = sf.Sampler(model, solver, number, grid=grid, batch_size=3, strict=strict)
    steps: list[sf.Step] = []
    images = sampler.sample([4, 9, 2, 8], callback=steps.append)
    assert torch.equal(images, sampler.sample([4, 9, 2, 8]))
    rows = len(sampler.table.rows)
    first = steps[:rows]
    assert [step.step for step in first] == list(range(1, rows + 1)) and {step.steps for step in steps} == {rows}
    np.testing.assert_allclose([step.t for step in first], sampler.table.times)
    np.testing.assert_allclose([step.sigma for step in first], VPSDE().noise_to_signal(sampler.table.times))
    for before, step in pairwise(first):
        scale, std = (float(value) for value in VPSDE().marginal(step.t))
        score = model.score(before.x.double(), torch.full((len(before.x),), step.t))
        assert step.denoised is not None
        exact = (before.x.double() + std**2 * score) / scale
        torch.testing.assert_close(step.denoised.double(), exact, rtol=1e-4, atol=1e-4)
    last = [step for step in steps if step.step == rows]
    by_seed = {seed: x for step in last for seed, x in zip(step.seeds, step.x, strict=True)}
    for seed, image in zip([4, 9, 2, 8], images, strict=True):
        assert torch.equal(by_seed[seed], image)


def test_trajectory(model: sf.GaussianMixture) -> None:
    """A trajectory has all states and estimates, in the order of the seeds; the last state is the sample."""
    sampler = sf.Sampler(model, "dpmpp_2m", 7, batch_size=2)
    images, path = sampler.sample(5, trajectory=True)
    assert torch.equal(images, sampler.sample(5)) and torch.equal(path.states[-1], images)
    assert path.states.shape == path.denoised.shape == (7, 5, *SHAPE)
    np.testing.assert_allclose(path.times, sampler.table.times)
    torch.testing.assert_close(path.denoised[-1], images, rtol=1e-5, atol=1e-5)
    both, function = sf.sample(model, 5, solver="dpmpp_2m", steps=7, trajectory=True)
    torch.testing.assert_close(both, images, rtol=0, atol=1e-5)
    torch.testing.assert_close(function.states, path.states, rtol=0, atol=1e-4)


def test_unusable_callbacks(model: sf.GaussianMixture) -> None:
    """Adaptive solvers have no common steps; a trajectory includes velocities."""
    with pytest.raises(ValueError, match="an adaptive solver has no callback and no trajectory"):
        sf.sample(model, 2, solver="rk45", trajectory=True)
    with pytest.raises(ValueError, match="the states of a trajectory have the velocities; leave it out"):
        sf.sample(sf.load("digits-cld"), 2, return_velocity=True, trajectory=True)


@pytest.mark.parametrize("solver", ["ddim", "rk45"])
def test_progress(model: sf.GaussianMixture, solver: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A bar counts the images; without progress nothing is printed."""
    options = {"steps": 9} if solver == "ddim" else {"rtol": 1e-2, "atol": 1e-2}
    sampler = sf.Sampler(model, solver, batch_size=2, **options)
    sampler.sample(5)
    assert capsys.readouterr().err == ""
    done: list[int] = []
    sampler.sample(5, lambda evaluations, total: done.append(evaluations), progress=True)
    assert "5/5" in capsys.readouterr().err and done


def pictures(*sizes: tuple[int, int], mode: str = "RGB") -> list[Image.Image]:
    """Return images of random pixels."""
    generator = np.random.default_rng(0)
    shapes = [(*size, 3) if mode == "RGB" else size for size in sizes]
    return [Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


def test_images_of_pillow() -> None:
    """Images of Pillow and arrays are taken where tensors are."""
    model = sf.load("digits-vp")
    images = pictures((16, 16), (16, 16))
    unit = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]).float() / 255
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[:, :8] = 255
    options: dict[str, Any] = {"solver": "ddim", "steps": 3}
    expected = sf.inpaint(model, unit, torch.from_numpy(mask == 255), **options)
    for ours in (images, unit.numpy(), (unit * 255).round().to(torch.uint8)):
        torch.testing.assert_close(
            sf.inpaint(model, ours, Image.fromarray(mask), **options), expected, rtol=0, atol=1e-6
        )
    gray = pictures((16, 16), mode="L")
    expected = sf.colorize(model, as_tensor(gray).float() / 255, **options)
    torch.testing.assert_close(sf.colorize(model, gray[0], **options), expected, rtol=0, atol=1e-6)
    flow: dict[str, Any] = {"steps": 2}
    torch.testing.assert_close(sf.encode(model, images[0], **flow), sf.encode(model, unit[:1], **flow))
    density = sf.likelihood(model, images, **flow).log_density
    torch.testing.assert_close(density, sf.likelihood(model, (unit * 255).round().byte(), **flow).log_density)


def test_different_images_are_refused() -> None:
    """Images of a list have one size; a palette becomes colours."""
    with pytest.raises(ValueError, match=re.escape("the images have shapes [(3, 8, 8), (3, 16, 16)]; give images of")):
        as_tensor(pictures((8, 8), (16, 16)))
    assert as_tensor(pictures((4, 4))[0].convert("P")).shape == (3, 4, 4)


def test_own_device() -> None:
    """A run is on the device of the model's weights unless another is named; without weights, on a GPU if any."""
    network = torch.nn.Linear(2, 2, device="meta")
    wrapped = sf.load("digits-vp")
    assert wrapped.own_device == torch.device("cpu") and sf.Sampler(wrapped, "ddim", 3).device.type == "cpu"
    wrapped.network = network
    assert wrapped.own_device == torch.device("meta")

    class Closed(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return -x

    wrapped.network = Closed()
    assert wrapped.own_device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def colour_model() -> sf.GaussianMixture:
    return sf.GaussianMixture(VPSDE(), [1.0], torch.zeros(1, 3, 8, 8, dtype=torch.float64), [0.3])


def turned() -> Image.Image:
    image = pictures((8, 8))[0]
    image.getexif()[0x0112] = 6
    return image


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGBA", (8, 8)), 'mode RGBA, but 3 8-bit channels are required; use image.convert("RGB")'),
        (Image.new("L", (8, 8)), 'mode L, but 3 8-bit channels are required; use image.convert("RGB")'),
        (Image.new("CMYK", (8, 8)), 'mode CMYK, but 3 8-bit channels are required; use image.convert("RGB")'),
        (Image.new("I;16", (8, 8)), "mode I;16; scale its values to 8 bits"),
        (Image.new("F", (8, 8)), "mode F; scale its values to 8 bits"),
        (turned(), "EXIF orientation 6; turn it upright with PIL.ImageOps.exif_transpose(image)"),
    ],
    ids=["RGBA", "L", "CMYK", "I;16", "F", "EXIF"],
)
def test_other_images_of_pillow(image: Image.Image, message: str) -> None:
    """An image of another mode is refused with its mode and the call that helps, wherever images are taken."""
    model = colour_model()
    for call in (
        lambda: sf.inpaint(model, image, np.ones((8, 8), bool), steps=2),
        lambda: sf.encode(model, [image]),
        lambda: sf.likelihood(model, image),
    ):
        with pytest.raises(ValueError, match=re.escape(f"the image has the {message}")):
            call()


def test_modes_for_colorization() -> None:
    """Colorization takes gray and colour images of Pillow, and names both numbers of channels for others."""
    model = colour_model()
    gray = Image.fromarray(np.full((8, 8), 51, np.uint8))
    images = sf.colorize(model, gray, solver="ddim", steps=3)
    torch.testing.assert_close(images.mean(1), torch.full((1, 8, 8), 0.2), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="mode LA, but 1 or 3 8-bit channels are required"):
        sf.colorize(model, gray.convert("LA"), solver="ddim", steps=3)
