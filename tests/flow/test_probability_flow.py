# SPDX-License-Identifier: Apache-2.0
"""Likelihoods are those of exact densities; codes decode to what they were made of, whatever their batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import scoresde_fast as sf
from scoresde_fast.data import digits
from scoresde_fast.flow.codes import data_states
from scoresde_fast.flow.likelihood import dequantized
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, SubVPSDE
from tests.support.chance import SIGMAS, standard_error_of_mean, standard_error_of_std

# So long that what is left of the data at T is nothing beside the prior: then the data's density is the model's.
SDE_OF: dict[str, SDE] = {
    "ve": VESDE(0.01, 5000.0),
    "vp": VPSDE(0.1, 40.0),
    "subvp": SubVPSDE(0.1, 40.0),
    "cld": CLDSDE(beta0=8.0),
}
EPS = 1e-5


def mixture(name: str, shape: tuple[int, ...], components: int = 3) -> tuple[sf.GaussianMixture, Tensor]:
    """A mixture, and four samples near its components."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(components, *shape, generator=generator, dtype=torch.float64)
    stds = [0.3, 0.2, 0.4][:components]
    model = sf.GaussianMixture(SDE_OF[name], [0.2, 0.3, 0.5][:components], means, stds, is_image=False)
    which = torch.arange(4) % components
    noise = torch.randn(4, *shape, generator=generator, dtype=torch.float64)
    return model, means[which] + torch.tensor(stds)[which].view(-1, 1, 1, 1) * noise


def exact_log_density(model: sf.GaussianMixture, data: Tensor, run_seed: int = 0) -> Tensor:
    """Of the data; on CLD that of position and velocity with the velocity's entropy, as the bound has it."""
    states = data_states(model, data, list(range(len(data))), run_seed)
    density = model.log_density(states, torch.full((len(data),), EPS, dtype=torch.float64))
    sde = model.sde
    return density + sde.velocity_entropy(data[0].numel()) if isinstance(sde, CLDSDE) else density


@pytest.mark.parametrize(
    ("name", "shape", "components"),
    [
        ("ve", (2, 1, 1), 3),
        ("vp", (2, 1, 1), 3),
        ("subvp", (2, 1, 1), 1),
        ("cld", (2, 1, 1), 3),
        ("ve", (3, 4, 4), 1),
        ("vp", (3, 4, 4), 3),
        ("vp", (3, 16, 16), 3),
        ("cld", (3, 4, 4), 3),
    ],
)
def test_exact_trace(name: str, shape: tuple[int, ...], components: int) -> None:
    """In 2 to 768 dimensions, a Gaussian or a mixture: within 1e-3 bits per dimension."""
    model, data = mixture(name, shape, components)
    if math.prod(shape) > 100:
        data = data[:1]
    got = sf.likelihood(model, data, probe="exact")
    error = (got.log_density - exact_log_density(model, data)) / (math.prod(shape) * math.log(2))
    assert error.abs().max() <= 1e-3
    assert got.standard_error is None and got.bits_per_dim is None


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("name", "probe"),
    [("ve", "rademacher"), ("vp", "rademacher"), ("vp", "normal"), ("subvp", "normal"), ("cld", "rademacher")],
)
def test_hutchinson(name: str, probe: str, run_seed: int) -> None:
    """Over 128 estimates of two probes neither the errors nor their squares, beyond the standard errors', are biased.

    One estimate tells little of its own error: what is summed, a square of a sum of probes, is far from normal.
    """
    model, data = mixture(name, (2, 3, 3))
    data = data.repeat(32, 1, 1, 1)
    got = sf.likelihood(model, data, probes=2, probe=probe, run_seed=run_seed)
    assert got.standard_error is not None and (got.standard_error > 0).all()
    error = got.log_density - exact_log_density(model, data, run_seed)
    for values in (error, error**2 - got.standard_error**2):
        assert values.mean().abs() <= SIGMAS * standard_error_of_mean(float(values.std()), len(values))


@pytest.mark.parametrize(("name", "steps"), [("vp", 40), ("cld", 60)])
def test_fixed_steps_agree(name: str, steps: int) -> None:
    """Fixed steps and the tolerances, both within 4e-4 by the exact trace, agree to 1e-3 bits per dimension."""
    model, data = mixture(name, (2, 1, 1))
    adaptive = sf.likelihood(model, data)
    fixed = sf.likelihood(model, data, steps=steps)
    assert (fixed.evaluations == 6 * steps + 1).all()
    assert ((fixed.log_density - adaptive.log_density).abs() / (2 * math.log(2))).max() <= 1e-3


def test_bits_per_dimension_of_both_ranges() -> None:
    """The same images under a model of [0, 1] and its image in [-1, 1], with uint8 and floats: the same bits."""
    levels = torch.tensor([[0, 3, 128, 255], [255, 17, 90, 1]], dtype=torch.uint8).view(2, 1, 2, 2)
    models = []
    for centered in (False, True):
        mean, std = (0.0, 0.8) if centered else (0.5, 0.4)
        model = sf.GaussianMixture.gaussian(SDE_OF["vp"], mean, std, (1, 2, 2))
        model.centered = centered
        models.append(model)
    wide, narrow = (sf.likelihood(model, levels, probe="exact") for model in models)
    assert wide.bits_per_dim is not None and narrow.bits_per_dim is not None
    torch.testing.assert_close(wide.bits_per_dim, narrow.bits_per_dim, rtol=0, atol=1e-3)
    x = dequantized(levels, [0, 1], 0)
    normal = torch.distributions.Normal(0.5, math.hypot(0.4, 0.0))
    exact = 8 - normal.log_prob(x).flatten(1).sum(1) / (4 * math.log(2))
    torch.testing.assert_close(wide.bits_per_dim, exact, rtol=0, atol=1e-3)
    floats = sf.likelihood(models[0], levels / 255, probe="exact")
    assert torch.equal(floats.log_density, wide.log_density)


@pytest.mark.statistical
def test_dequantisation_is_of_the_seed(run_seed: int) -> None:
    """Each level's noise lies within the level, depends on seed and run seed alone, and is uniform."""
    levels = torch.full((300, 3, 8, 8), 200, dtype=torch.uint8)
    x = dequantized(levels, range(300), run_seed) * 256 - 200
    assert x.min() > 0 and x.max() < 1
    assert abs(float(x.mean()) - 0.5) < SIGMAS * standard_error_of_mean(math.sqrt(1 / 12), x.numel())
    assert torch.equal(dequantized(levels[:2], [7, 3], run_seed)[1] * 256 - 200, x[3])
    assert not torch.equal(dequantized(levels[:1], [0], run_seed + 1), dequantized(levels[:1], [0], run_seed))


@pytest.fixture(scope="module")
def digit_images() -> Tensor:
    return digits("test")[0][:3] / 255


def test_encode_then_decode(digit_images: Tensor) -> None:
    """An image comes back to its level of 255; its code is as long as the prior's, whose deviation is 1.

    The two integrations part by up to 8e-4 at their tolerances, over twelve images; half a level is 2e-3.
    """
    model = sf.load("digits-vp")
    codes = sf.encode(model, digit_images[:2])
    back = sf.decode(model, codes)
    assert (back - digit_images[:2]).abs().max() <= 0.5 / 255
    assert abs(float(codes.std()) - 1) <= SIGMAS * standard_error_of_std(1.0, codes.numel())


def test_encode_then_decode_with_a_velocity(digit_images: Tensor) -> None:
    """On CLD too, whose velocity is drawn and comes back with the position."""
    model = sf.load("digits-cld")
    codes = sf.encode(model, digit_images[:1], seeds=[5], eps=1e-3)
    assert codes.shape == (1, 6, 16, 16)
    assert (sf.decode(model, codes, eps=1e-3) - digit_images[:1]).abs().max() <= 1e-3


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_decode_is_the_rk45_sampler(name: str) -> None:
    """The normals of a seed, decoded, are what "rk45" draws without denoising, at the same tolerances."""
    model, _ = mixture(name, (2, 3, 3))
    codes = Noise(0, torch.tensor([3, 8])).normal(0, model.state_shape)
    drawn = sf.sample(model, [3, 8], solver="rk45", denoise=False, eps=1e-3, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sf.decode(model, codes, eps=1e-3), drawn, rtol=1e-5, atol=1e-5)


def test_interpolation_is_a_great_circle() -> None:
    """Ends are kept, steps are even in angle, and lengths go linearly from one to the other."""
    a, b = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    b = 1.5 * b
    way = sf.interpolate(a, b, 6)
    torch.testing.assert_close(way[0], a)
    torch.testing.assert_close(way[-1], b)
    norms = way.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms.diff(), (norms[-1] - norms[0]).expand(5) / 5)
    unit = way.flatten(1) / norms[:, None]
    angles = (unit[1:] * unit[:-1]).sum(1).acos()
    torch.testing.assert_close(angles, angles.mean().expand(5))
    torch.testing.assert_close(sf.interpolate(a, a, 3), a.expand(3, *a.shape))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda m: sf.likelihood(m, torch.full((1, 1, 2, 2), 0.3141)), "8-bit images"),
        (lambda m: sf.likelihood(m, torch.full((1, 1, 2, 2), 2.0)), r"must be in \[0, 1\]"),
        (lambda m: sf.likelihood(m, torch.full((1, 1, 2, 2), math.nan)), "8-bit images"),
        (lambda m: sf.likelihood(m, torch.zeros(1, 1, 4, 2, dtype=torch.uint8)), r"this model's are \(1, 2, 2\)"),
        (lambda m: sf.likelihood(m, torch.zeros(2, 1, 2, 2), seeds=[1]), "1 seeds for 2 samples"),
        (lambda m: sf.likelihood(m, torch.zeros(1, 1, 2, 2), probes=0), "number of probes is 0"),
        (lambda m: sf.likelihood(m, torch.zeros(1, 1, 2, 2), probe="gauss"), "kind of probe 'gauss'"),
        (lambda m: sf.likelihood(m, torch.zeros(1, 1, 2, 2), probes=2, probe="exact"), "exact trace needs none"),
        (lambda m: sf.likelihood(m, torch.zeros(1, 1, 2, 2), rtol=-1.0), "rtol is -1.0"),
        (lambda m: sf.likelihood(m, torch.zeros(1, 1, 2, 2), eps=2.0), "eps is 2.0"),
        (lambda m: sf.encode(m, torch.full((1, 1, 2, 2), 1.5)), r"must be in \[0, 1\]"),
        (lambda m: sf.decode(m, torch.zeros(1, 2, 2, 2)), r"this model's are \(1, 2, 2\)"),
        (lambda m: sf.decode(m, torch.zeros(1, 1, 2, 2), temperature=0.0), "temperature is 0.0"),
        (lambda m: sf.encode(m, torch.zeros(2, 1, 2, 2), seeds=[1, 1], strict=True), "place of its own"),
        (lambda m: sf.interpolate(torch.ones(3), -torch.ones(3), 4), "opposite directions"),
        (lambda m: sf.interpolate(torch.ones(3), torch.ones(2), 4), "two of the same shape"),
        (lambda m: sf.interpolate(torch.ones(3), torch.ones(3), 1), "at least 2, the two ends"),
    ],
)
def test_refusals(wrong: object, sentence: str) -> None:
    """One sentence with the value and what is allowed."""
    model = sf.GaussianMixture.gaussian(VPSDE(), 0.5, 0.3, (1, 2, 2))
    with pytest.raises(ValueError, match=sentence):
        wrong(model)  # type: ignore[operator]
