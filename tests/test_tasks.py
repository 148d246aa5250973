# SPDX-License-Identifier: Apache-2.0
"""Tasks: known pixels, data per image, and errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import scoresde_fast as sf
from scoresde_fast.data import load_dataset
from scoresde_fast.sdes import VPSDE
from scoresde_fast.tasks import fit_colours
from tests.support.conditioned_models import SHAPE, TOP, model_of, some_images, some_masks

IMAGE = torch.full(SHAPE, 0.5)
NOT_BINARY = torch.full((4, 4), 0.5)
DIGITS: dict[str, Any] = {"solver": "sa", "grid": "logsnr", "steps": 20}


def test_inpaint() -> None:
    """Known pixels equal the input bit for bit; the others are sampled, several times per image, in image order."""
    model, images, masks = model_of("ve"), some_images(2), some_masks(2)
    with_nan = images.where(masks, torch.nan)  # unknown pixels may have any value
    filled = sf.inpaint(model, with_nan, masks, samples=3, solver="pc", steps=10)
    assert filled.shape == (6, *SHAPE) and filled.dtype == torch.float32
    assert filled.min() >= 0 and filled.max() <= 1
    repeated, known = images.repeat_interleave(3, 0), masks.repeat_interleave(3, 0).expand(6, *SHAPE)
    assert torch.equal(filled[known], repeated[known])
    assert not torch.equal(filled[0], filled[1])
    one = sf.inpaint(model, images[1], masks[1, 0], seeds=[4], solver="pc", steps=10)
    torch.testing.assert_close(one[0], filled[4], rtol=0, atol=1e-5)
    assert torch.equal(sf.inpaint(model, images, torch.ones(4, 4), solver="pc", steps=2), images)
    free = sf.sample(model, range(2), solver="pc", steps=4)
    assert torch.equal(sf.inpaint(model, images, torch.zeros(4, 4), solver="pc", steps=4), free)


def test_colorize() -> None:
    """The mean over the channels equals the gray, given as one channel or three equal ones."""
    model, gray = model_of("vp"), 0.4 + 0.2 * torch.rand(2, 1, 4, 4)
    coloured = sf.colorize(model, gray, samples=2, solver="pc", steps=24)
    assert coloured.shape == (4, *SHAPE) and coloured.std(dim=1).mean() > 0.02
    torch.testing.assert_close(coloured.mean(1, keepdim=True), gray.repeat_interleave(2, 0), rtol=0, atol=2e-6)
    again = sf.colorize(model, gray.expand(-1, 3, -1, -1), samples=2, solver="pc", steps=24)
    assert torch.equal(again, coloured)
    dark = torch.tensor([0.0, 0.1, 0.5, 1.0]).view(1, 1, 2, 2)
    pale = fit_colours(torch.tensor([0.0, 0.3, 0.6]).view(1, 3, 1, 1).expand(-1, -1, 2, 2), dark)
    torch.testing.assert_close(pale[0, :, 0, 1], torch.tensor([0.0, 0.1, 0.2]))  # desaturated to fit
    torch.testing.assert_close(pale[0, :, 1, 0], torch.tensor([0.2, 0.5, 0.8]))
    assert torch.equal(pale[0, :, 0, 0], torch.zeros(3)) and torch.equal(pale[0, :, 1, 1], torch.ones(3))


def test_numpy_arrays() -> None:
    """Images and masks can be NumPy arrays, with the same result."""
    model, images, mask = sf.load("digits-vp"), torch.rand(1, 3, 16, 16), torch.eye(16)
    options: dict[str, Any] = {"solver": "ddim", "steps": 3}
    expected = sf.inpaint(model, images, mask, **options)
    arrays: tuple[Any, Any] = images.numpy(), mask.numpy()
    assert torch.equal(sf.inpaint(model, *arrays, **options), expected)


def test_guided_tasks_keep_known_values() -> None:
    """Guided inpainting keeps known pixels exactly and has smaller errors; guided colorization keeps the gray."""
    model, images = sf.load("digits-vp"), load_dataset("digits", "test")[0][:12].float() / 255
    mask = torch.ones(16, 16)
    mask[8:] = 0
    errors = []
    for method in ("projection", "pigdm"):
        filled = sf.inpaint(model, images, mask, method=method, **DIGITS)
        assert torch.equal(filled[:, :, :8], images[:, :, :8])
        errors.append(float((filled - images).square().mean().sqrt()))
    assert errors[1] < errors[0]
    gray = images.mean(1, keepdim=True)
    coloured = sf.colorize(model, gray, method="pigdm", **DIGITS)
    torch.testing.assert_close(coloured.mean(1, keepdim=True), gray, rtol=0, atol=1e-5)
    refused: dict[str, dict[str, Any]] = {
        "unknown method 'pgdm'": {"method": "pgdm"},
        "original=True requires method='projection'": {"method": "pigdm", "original": True},
    }
    for message, options in refused.items():
        with pytest.raises(ValueError, match=message):
            sf.colorize(model, gray, **options)


def test_mask_per_image() -> None:
    """Guided samples of two images with two masks equal those of each image alone, by `inpaint` and by `restore`.

    The score is linear, so rounding errors do not grow: in 20 steps they reach about 20 eps of states up to 3.
    """
    model = sf.GaussianMixture.gaussian(VPSDE(), 0.5, 0.3, SHAPE)
    images = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(2))
    masks = torch.stack([TOP, 1 - TOP])[:, None]
    filled = sf.inpaint(model, images, masks, seeds=[5, 2], method="pigdm", **DIGITS)
    restored = sf.restore(model, sf.Mask(masks), images, noise=0.1, seeds=[5, 2], **DIGITS)
    for index, seed in enumerate([5, 2]):
        image, mask = images[index : index + 1], masks[index, 0]
        alone = sf.inpaint(model, image, mask, seeds=[seed], method="pigdm", **DIGITS)
        torch.testing.assert_close(filled[index : index + 1], alone, rtol=0, atol=1e-5)
        alone = sf.restore(model, sf.Mask(mask), image, noise=0.1, seeds=[seed], **DIGITS)
        torch.testing.assert_close(restored[index : index + 1], alone, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="the operator has parameters for 2 measurements, but there are 1"):
        sf.PiGDM(sf.Mask(masks), images[:1])


def test_bad_tasks() -> None:
    """The error names the value and what is allowed."""
    model, images = model_of("vp"), some_images(2)
    for message, call in {
        r"images has shape \(2, 3, 4, 3\); for this model it must be \(N, 3, 4, 4\)":
            lambda: sf.inpaint(model, images[..., :3], NOT_BINARY),
        "there are 3 seeds for 2 images with 2 samples each; give 4":
            lambda: sf.inpaint(model, images, torch.ones(4, 4), samples=2, seeds=[1, 2, 3]),
        "samples is 0": lambda: sf.inpaint(model, images, torch.ones(4, 4), samples=0),
        "gray has colours: the channels of image . differ by": lambda: sf.colorize(model, images),
        r"it must be \(N, 1, 4, 4\) or \(N, 3, 4, 4\)": lambda: sf.colorize(model, images[:, :2]),
        "gray contains NaN or infinity": lambda: sf.colorize(model, images / 0),
        "the model's images have one channel": lambda: sf.colorize(model_of("vp", (1, 4, 4)), images[:, :1]),
        "solver 'rk45' takes no condition": lambda: sf.inpaint(model, images, torch.ones(4, 4), solver="rk45"),
        "seed 9 has no known image": lambda: sf.sample(
            model, [0, 9], solver="pc", steps=24, condition=sf.Projection(images, seeds=[0, 1])),
        "there are 200 conditions; a run takes at most 128": lambda: sf.Sampler(
            model, "pc", 5, condition=[sf.Projection(IMAGE)] * 200),
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()
