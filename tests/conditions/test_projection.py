# SPDX-License-Identifier: Apache-2.0
"""Projection in the loop: every SDE and solver, data per seed, the official code's form, and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import scoresde_fast as sf
from scoresde_fast.loop.capture import CapturedLoop, require_capturable_loop
from scoresde_fast.loop.condition import RunContext, bind_all
from scoresde_fast.loop.evaluator import PlainNetwork
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import CLDSDE, ScalarSDE
from scoresde_fast.solvers import SolverOptions, build_table
from tests.support.chance import SIGMAS, assert_moments, binomial_bounds
from tests.support.conditioned_models import CASES, IDS, SDE_OF, SHAPE, model_of, some_images, some_masks
from tests.support.recorded_graphs import RecordedGraphs


@pytest.mark.statistical
@pytest.mark.parametrize(("sde", "solver"), CASES, ids=IDS)
def test_every_solver(sde: str, solver: str, run_seed: int) -> None:
    """A mask without known pixels changes no bit; known pixels are exact at the end, and the others fit them.

    About half of the free samples are bright.  Given bright known pixels, up to 2.5 % are not (measured on 4000
    samples): by the binomial distribution, 11 of 64 occur once in 10^6 runs.
    """
    model = model_of(sde, is_image=False)
    options: dict[str, Any] = {"seeds": range(64), "solver": solver, "steps": 40, "run_seed": run_seed}
    free = sf.sample(model, **options)
    image, mask = torch.full(SHAPE, 0.8), torch.ones(SHAPE[1:])
    mask[2:] = 0
    assert torch.equal(sf.sample(model, condition=sf.Projection(image, torch.zeros(SHAPE)), **options), free)
    filled = sf.sample(model, condition=sf.Projection(image, mask), **options)
    assert torch.equal(filled[:, :, :2], image[:, :2].expand(64, -1, -1, -1))
    shares = [float((images[:, :, 2:].mean((1, 2, 3)) > 0.5).float().mean()) for images in (filled, free)]
    bright_filled, bright_free = shares
    assert bright_filled > 1 - 11 / 64 > binomial_bounds(0.5, 64)[1] >= bright_free
    assert filled[:, :, 2:].std() > 0.02
    assert torch.equal(sf.sample(model, condition=sf.Projection(image), **options), image.expand(64, -1, -1, -1))


@pytest.mark.parametrize("sde", SDE_OF)
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 2, 2), (3, 1, 1), (1, 2, 1)], ids=str)
def test_means_over_blocks(sde: str, shape: tuple[int, ...]) -> None:
    """Samples have the known means over channels, over pixels, and over both."""
    model, known = model_of(sde, is_image=False), 0.3 + 0.4 * torch.rand(2, *shape)
    condition = sf.Projection(known, seeds=[5, 6])
    samples = sf.sample(model, [5, 6], steps=20, condition=condition, solver="euler_maruyama")
    blocks = [size // count for size, count in zip(SHAPE, shape, strict=True)]
    means = samples.view(2, shape[0], blocks[0], shape[1], blocks[1], shape[2], blocks[2]).mean((2, 4, 6))
    torch.testing.assert_close(means, known, rtol=0, atol=2e-6)


@pytest.mark.statistical
@pytest.mark.parametrize("sde", SDE_OF)
def test_start_distribution(sde: str, run_seed: int) -> None:
    """With all pixels known, the start is distributed as p(x_T | x_0), on CLD as p(x_T, v_T | x_0)."""
    model = model_of(sde, (1, 40, 50))
    table = build_table(model.sde, options := SolverOptions("euler_maruyama", 5))
    known = torch.full((1, 40, 50), 0.6)
    bound = sf.Projection(known).bind(RunContext(model, table, options, torch.device("cpu")))
    ids = torch.arange(20)
    state = torch.zeros(20, *model.state_shape)
    bound.start(state, bound.data(ids), ids, run_seed=run_seed)
    parts = state.chunk(model.sde.parts, dim=1)
    if isinstance(model.sde, CLDSDE):
        kernel = model.sde.marginal(1.0)
        scales, covariance = kernel.mean[:, 0], kernel.covariance
        joint = torch.stack([part.flatten() for part in parts])
        correlation = covariance[0, 1] / covariance.diagonal().prod() ** 0.5
        error = (1 - correlation**2) / joint.shape[1] ** 0.5
        assert abs(float(torch.corrcoef(joint)[0, 1]) - correlation) <= SIGMAS * error
        stds = covariance.diagonal() ** 0.5
    else:
        assert isinstance(model.sde, ScalarSDE)
        scales, stds = (np.array([value]) for value in model.sde.marginal(1.0))
    for part, scale, std in zip(parts, scales, stds, strict=True):
        assert_moments(part, 0.6 * scale, std)


def test_each_seed_has_its_own_data() -> None:
    """With an image and a mask per seed, samples do not depend on batch size, order or strictness."""
    model, images, masks = model_of("vp"), some_images(5), some_masks(5)
    seeds = [3, 11, 4, 2**40, 0]
    condition = sf.Projection(images, masks, seeds=seeds)
    options: dict[str, Any] = {"solver": "pc", "steps": 24, "condition": condition}
    together = sf.sample(model, seeds, **options)
    torch.testing.assert_close(together.where(masks, 0), images.where(masks, 0), rtol=0, atol=1e-6)
    for batch_size in (1, 2):
        separate = sf.sample(model, seeds[::-1], batch_size=batch_size, **options)
        torch.testing.assert_close(separate.flip(0), together, rtol=0, atol=2e-6)
    strict = sf.Sampler(model, strict=True, **options)
    assert torch.equal(strict.sample(seeds)[[3, 1]], strict.sample([2**40, 11]))
    torch.testing.assert_close(strict.sample(seeds), together, rtol=0, atol=2e-6)


def test_cpu_workers() -> None:
    """In a batch split over CPU workers each seed gets its own image."""
    images = some_images(17)
    torch.set_num_threads(2)
    try:
        condition = sf.Projection(images, seeds=range(17))
        samples = sf.sample(model_of("vp"), range(17), solver="euler_maruyama", steps=2, condition=condition)
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(samples, images, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sde", SDE_OF)
def test_captured(sde: str) -> None:
    """The loop can be captured, and a replayed run equals the eager one bit for bit."""
    model = model_of(sde)
    options = SolverOptions("sscs" if sde == "cld" else "pc", 24)
    table = build_table(model.sde, options)

    def loop_on(device: str) -> Loop:
        program = Program.of_model(model, table, device)
        conditions = (sf.Projection(some_images(3), some_masks(3), seeds=[0, 1, 2]), sf.Projection(torch.ones(1, 4, 4)))
        bound = bind_all(conditions, RunContext(model, table, options, torch.device(device)))
        evaluate = PlainNetwork(CapturableNetwork(), program.labels)
        return Loop(program, evaluate, StepBackends.choose(device), conditions=bound)

    loop = loop_on("cpu")
    captured = CapturedLoop(loop, (3, *model.state_shape), RecordedGraphs())
    for ids in ([0, 1, 2], [2, 2, 1]):
        noise = Noise(0, torch.tensor(ids))
        x = model.prior(noise.normal(0, model.state_shape))
        assert torch.equal(captured.run(x, noise), loop.run(x, noise))
    with torch.inference_mode():
        require_capturable_loop(loop_on("meta"), model.state_shape)


class CapturableNetwork(torch.nn.Module):
    """A network that can be captured, for every model of this file."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return -x[:, : SHAPE[0]] / (1 + labels.view(-1, 1, 1, 1))


def test_conditions_combine() -> None:
    """Two projections apply together, each with its own noise; the first one's noise is the same as alone."""
    model, image = model_of("vp", is_image=False), some_images(1)[0]
    left, right = torch.zeros(SHAPE[1:]), torch.zeros(SHAPE[1:])
    left[:, 0], right[:, 3] = 1, 1
    parts = sf.Projection(image, left), sf.Projection(image, right)
    options: dict[str, Any] = {"solver": "pc", "steps": 24, "seeds": range(2)}
    two = sf.sample(model, condition=parts, **options)
    one = sf.sample(model, condition=sf.Projection(image, left + right), **options)
    assert torch.equal(two[..., [0, 3]], image[..., [0, 3]].expand(2, -1, -1, -1))
    assert not torch.equal(two, one) and not torch.equal(two[..., 1:3], sf.sample(model, **options)[..., 1:3])
    nothing = sf.Projection(image, torch.zeros(SHAPE))
    first, second = (sf.sample(model, condition=each, **options) for each in ((parts[0], nothing), parts[:1]))
    assert torch.equal(first, second)
    descriptions = sf.Sampler(model, "pc", 24, condition=parts).describe()["condition"]
    assert len({description["sha256"] for description in descriptions}) == 2
    assert "condition" not in sf.Sampler(model, "pc", 24).describe()


def test_incomplete_bound_condition() -> None:
    """The error for a bound condition of neither kind names its class and the members that it lacks."""

    class Incomplete:
        def data(self, sample_ids: Tensor) -> tuple[Tensor, ...]:
            return ()

        def empty_data(self, batch: int) -> tuple[Tensor, ...]:
            return ()

        def start(self, *args: Any, **options: Any) -> None: ...

    class Binding(sf.Projection):
        def bind(self, run: RunContext) -> Any:
            return Incomplete()

    missing = r"StateCondition \(missing: after_row\) nor a GuidanceCondition \(missing: limit_gradient, log_likelihood"
    with pytest.raises(TypeError, match=f"bound as Incomplete, which is neither a {missing}, pushes, through_network"):
        sf.Sampler(model_of("vp"), "pc", 24, condition=Binding(IMAGE))


@pytest.mark.statistical
def test_velocities(run_seed: int) -> None:
    """On CLD the velocity of known pixels ends as a sample of N(0, gamma M), different for every seed."""
    model, image = model_of("cld", (1, 30, 30)), torch.full((1, 30, 30), 0.5)
    options: dict[str, Any] = {"solver": "sscs", "steps": 10, "condition": sf.Projection(image), "run_seed": run_seed}
    images, velocities = sf.sample(model, range(4), return_velocity=True, **options)
    assert torch.equal(images, image.expand(4, -1, -1, -1))
    assert_moments(velocities, 0, (0.04 * 0.25) ** 0.5)
    assert not torch.equal(*velocities[:2])


@pytest.mark.statistical
def test_without_denoising_known_pixels_are_noisy(run_seed: int) -> None:
    """denoise=False ends at eps: known pixels have the noise of that time."""
    model, image = model_of("vp", (1, 30, 30), is_image=False), torch.full((1, 30, 30), 0.5)
    options: dict[str, Any] = {"solver": "euler_maruyama", "steps": 5, "denoise": False, "run_seed": run_seed}
    samples = sf.sample(model, range(4), condition=sf.Projection(image), **options)
    assert isinstance(model.sde, ScalarSDE)
    scale, std = model.sde.marginal(1e-3)
    assert_moments(samples, float(scale) * 0.5, float(std))


def test_original() -> None:
    """original=True changes the results, and refuses what the official code does not support."""
    model, images, mask = model_of("vp"), some_images(2), torch.eye(4)
    options: dict[str, Any] = {"solver": "pc", "steps": 24, "original": True}
    filled = sf.inpaint(model, images, mask, **options)
    assert not torch.equal(filled, sf.inpaint(model, images, mask, **{**options, "original": False}))
    assert isinstance(model.sde, ScalarSDE)
    # In the official code known pixels end as the mean at eps.
    known = (torch.eye(4) > 0).expand(2, *SHAPE)
    torch.testing.assert_close(filled[known], images[known] * float(model.sde.marginal(1e-3).scale))
    assert sf.colorize(model, images[:, :1], **options).shape == (2, *SHAPE)
    small = sf.Projection(torch.ones(3, 2, 2), original=True)
    changes: dict[str, dict[str, Any]] = {
        "original=True reproduces the official code, which has no solver 'ddim'": {"solver": "ddim"},
        "choose denoise=False": {"denoise": True},
        r"original=True supports .* only, not averages over blocks \(1, 2, 2\)": {"condition": small},
    }
    valid: dict[str, Any] = {"solver": "pc", "steps": 24, "denoise": False}
    valid["condition"] = sf.Projection(images[0], original=True)
    for message, change in changes.items():
        with pytest.raises(ValueError, match=message):
            sf.Sampler(model, **{**valid, **change})


IMAGE = torch.full(SHAPE, 0.5)
NOT_BINARY = torch.full((4, 4), 0.5)


@pytest.mark.parametrize(
    ("message", "known", "options"),
    [
        (r"known has shape \(3, 4, 3\), but the model's images have \(3, 4, 4\): give that shape", IMAGE[..., :3], {}),
        (r"known has shape \(2, 4, 4\)", IMAGE[:2], {}),
        (r"known has shape \(4, 4\) and dtype float32; it must be", IMAGE[0], {}),
        ("and dtype int32; it must be .* divide 8-bit values by 255", IMAGE.int(), {}),
        ("known has values from 0 to 127.5; images have values in", 255 * IMAGE, {"mask": torch.eye(4)}),
        ("known contains NaN or infinity", IMAGE / 0, {}),
        (r"mask has shape \(4, 3\); for images of shape \(1, 3, 4, 4\) it must be \(4, 4\)", IMAGE,
         {"mask": torch.ones(4, 3)}),
        (r"mask has shape \(2, 1, 4, 4\)", IMAGE, {"mask": torch.ones(2, 1, 4, 4)}),
        ("mask has values other than 0 and 1", IMAGE, {"mask": NOT_BINARY}),
        ("mask has values other than 0 and 1", IMAGE, {"mask": NOT_BINARY / 0}),
        ("there are 2 known images: pass the seeds", torch.stack([IMAGE] * 2), {}),
        ("there are 3 seeds for 2 known images", torch.stack([IMAGE] * 2), {"seeds": [1, 2, 3]}),
        ("seed 4 belongs to two known images", torch.stack([IMAGE] * 2), {"seeds": [4, 4]}),
    ],
)  # fmt: skip
def test_bad_projections(message: str, known: Tensor, options: dict[str, Any]) -> None:
    """The error names the value and what is allowed, before anything is computed."""
    with pytest.raises(ValueError, match=message):
        sf.Sampler(model_of("vp"), "pc", 24, condition=sf.Projection(known, **options))
