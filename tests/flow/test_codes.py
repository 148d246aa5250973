# SPDX-License-Identifier: Apache-2.0
"""Encoding, decoding and interpolation, and errors for bad input of these and of likelihoods."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import scoresde_fast as sf
from scoresde_fast.data import digits
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import VPSDE
from tests.support.chance import SIGMAS, standard_error_of_std
from tests.support.flow_models import mixture


@pytest.fixture(scope="module")
def digit_images() -> Tensor:
    return digits("test")[0][:3] / 255


def test_encode_then_decode(digit_images: Tensor) -> None:
    """A decoded code is within half an 8-bit step (2e-3) of its image, and codes have standard deviation 1.

    At the default tolerances the error was up to 8e-4 over twelve images.
    """
    model = sf.load("digits-vp")
    codes = sf.encode(model, digit_images[:2])
    decoded = sf.decode(model, codes)
    assert (decoded - digit_images[:2]).abs().max() <= 0.5 / 255
    assert abs(float(codes.std()) - 1) <= SIGMAS * standard_error_of_std(1.0, codes.numel())


def test_encode_then_decode_with_a_velocity(digit_images: Tensor) -> None:
    """On CLD the velocity is sampled, and decoding returns the image."""
    model = sf.load("digits-cld")
    codes = sf.encode(model, digit_images[:1], seeds=[5], eps=1e-3)
    assert codes.shape == (1, 6, 16, 16)
    assert (sf.decode(model, codes, eps=1e-3) - digit_images[:1]).abs().max() <= 1e-3


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_decode_equals_the_rk45_sampler(name: str) -> None:
    """Decoding a seed's normals gives the sample of "rk45" without denoising, at the same tolerances."""
    model, _ = mixture(name, (2, 3, 3))
    codes = Noise(0, torch.tensor([3, 8])).normal(0, model.state_shape)
    sampled = sf.sample(model, [3, 8], solver="rk45", denoise=False, eps=1e-3, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sf.decode(model, codes, eps=1e-3), sampled, rtol=1e-5, atol=1e-5)


def test_interpolation_is_a_great_circle() -> None:
    """The ends are exact, the angles between neighbouring codes are equal, and the norms are linear."""
    a, b = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    b = 1.5 * b
    codes = sf.interpolate(a, b, 6)
    torch.testing.assert_close(codes[0], a)
    torch.testing.assert_close(codes[-1], b)
    norms = codes.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms.diff(), (norms[-1] - norms[0]).expand(5) / 5)
    unit = codes.flatten(1) / norms[:, None]
    angles = (unit[1:] * unit[:-1]).sum(1).acos()
    torch.testing.assert_close(angles, angles.mean().expand(5))
    torch.testing.assert_close(sf.interpolate(a, a, 3), a.expand(3, *a.shape))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: sf.likelihood(m, torch.full((1, 1, 2, 2), 0.3141)), "8-bit images"),
        (lambda m: sf.likelihood(m, torch.full((1, 1, 2, 2), 2.0)), r"must be in \[0, 1\]"),
        (lambda m: sf.likelihood(m, torch.full((1, 1, 2, 2), math.nan)), "8-bit images"),
        (lambda m: sf.likelihood(m, torch.zeros(1, 1, 4, 2, dtype=torch.uint8)), r"this model's have \(1, 2, 2\)"),
        (lambda m: sf.likelihood(m, torch.zeros(2, 1, 2, 2), seeds=[1]), "there are 1 seeds for 2 samples"),
        (lambda m: sf.likelihood(m, torch.zeros(1, 1, 2, 2), probes=0), "number of probes is 0"),
        (lambda m: sf.likelihood(m, torch.zeros(1, 1, 2, 2), probe="gauss"), "kind of probe 'gauss'"),
        (lambda m: sf.likelihood(m, torch.zeros(1, 1, 2, 2), probes=2, probe="exact"), "exact trace uses none"),
        (lambda m: sf.likelihood(m, torch.zeros(1, 1, 2, 2), rtol=-1.0), "rtol is -1.0"),
        (lambda m: sf.likelihood(m, torch.zeros(1, 1, 2, 2), eps=2.0), "eps is 2.0"),
        (lambda m: sf.encode(m, torch.full((1, 1, 2, 2), 1.5)), r"must be in \[0, 1\]"),
        (lambda m: sf.decode(m, torch.zeros(1, 2, 2, 2)), r"this model's have \(1, 2, 2\)"),
        (lambda m: sf.decode(m, torch.zeros(1, 1, 2, 2), temperature=0.0), "temperature is 0.0"),
        (lambda m: sf.interpolate(torch.ones(3), -torch.ones(3), 4), "opposite directions"),
        (lambda m: sf.interpolate(torch.ones(3), torch.ones(2), 4), "two of the same shape"),
        (lambda m: sf.interpolate(torch.ones(3), torch.ones(3), 1), "steps is 1; it must be an integer of at least 2"),
    ],
)
def test_bad_input(call: Callable[[sf.GaussianMixture], object], message: str) -> None:
    """The error names the value and what is allowed."""
    model = sf.GaussianMixture.gaussian(VPSDE(), 0.5, 0.3, (1, 2, 2))
    with pytest.raises(ValueError, match=message):
        call(model)
