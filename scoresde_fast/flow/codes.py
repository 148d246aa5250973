# SPDX-License-Identifier: Apache-2.0
"""Latent codes by the probability flow: encoding, decoding, interpolation (Song et al. 2021, 4.3 and appendix D.3).

The flow maps data to the prior and back without loss: the state at T is a code of the image.  Codes are divided by the
standard deviation of the prior, so that they are standard normals for every SDE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.flow.options import FlowOptions
from scoresde_fast.flow.probability_flow import ProbabilityFlow
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise, check_seed
from scoresde_fast.run_options import accepting_options
from scoresde_fast.sdes import CLDSDE

DEFAULTS: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}
"""Tolerances that bring an image back to 1e-3; with 1e-5, the default of likelihoods, a few 1e-3 are left."""
VELOCITY_DRAW = 1
"""The draw of CLD's initial velocity."""


@accepting_options(FlowOptions)
def encode(model: ScoreFunction, images: Tensor, seeds: Sequence[int] | None = None, **options: Any) -> Tensor:
    """Return codes (N, *state_shape) float32 of images (N, C, H, W) in [0, 1] or of points.

    On CLD a code is that of position and velocity; the velocity at the data is drawn from N(0, gamma M) by the image's
    seed.

    Args:
        model: any `ScoreFunction` of continuous time.
        images: the data.
        seeds: of the velocities; None: 0, 1, ...
        options: those of `FlowOptions` and `RunOptions`; rtol and atol are 1e-6 by default.

    Raises:
        ValueError: the shape or range of the images or the number of seeds does not fit, or an option is out of range.
        IntegrationError: see `ProbabilityFlow.run`.
    """
    ids = sample_ids(images, seeds)
    flow = ProbabilityFlow(model, to_data=False, defaults=DEFAULTS, **options)
    states = data_states(model, images, ids, flow.run_options.run_seed)
    return _scaled(model, flow.run(states, ids).states, invert=True).float()


class Decoder:
    """Decodes one batch of codes after another.

    Args:
        model: any `ScoreFunction` of continuous time.
        temperature: factor of the codes; below 1 the images are more typical and less varied.
        options: those of `FlowOptions` and `RunOptions`, with the default tolerances of `encode`.

    Raises:
        ValueError: the temperature is not a positive number, or an option is out of its range.
    """

    @accepting_options(FlowOptions)
    def __init__(self, model: ScoreFunction, *, temperature: float = 1.0, **options: Any) -> None:
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature is {temperature}; it must be a finite number greater than 0")
        self.temperature = temperature
        self.flow = ProbabilityFlow(model, to_data=True, defaults=DEFAULTS, **options)

    def decode(self, codes: Tensor, seeds: Sequence[int] | None = None, on_step: OnStep | None = None) -> Tensor:
        """Return images (N, C, H, W) in [0, 1], or points, of codes (N, *state_shape).

        ``seeds`` name the samples in errors, and with ``strict`` decide their places in a batch.

        Raises:
            ValueError: the shape of the codes does not fit.
            IntegrationError: see `ProbabilityFlow.run`.
        """
        model = self.flow.model
        if tuple(codes.shape[1:]) != model.state_shape:
            raise ValueError(f"codes have shape {tuple(codes.shape[1:])}; this model's are {model.state_shape}")
        states = _scaled(model, self.temperature * codes.double().cpu(), invert=False)
        data = self.flow.run(states, sample_ids(codes, seeds), on_step).states
        return model.to_images(data.chunk(model.sde.parts, dim=1)[0]).float()


@accepting_options(FlowOptions)
def decode(model: ScoreFunction, codes: Tensor, *, temperature: float = 1.0, **options: Any) -> Tensor:
    """Return images (N, C, H, W) in [0, 1], or points, of codes (N, *state_shape); the errors are those of `Decoder`.

    Args:
        model: any `ScoreFunction` of continuous time.
        codes: standard normals, or codes from `encode`.
        temperature: factor of the codes; below 1 the images are more typical and less varied.
        options: those of `FlowOptions` and `RunOptions`; rtol and atol are 1e-6 by default.
    """
    return Decoder(model, temperature=temperature, **options).decode(codes)


def interpolate(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Return ``steps`` codes (steps, ...) on the great circle from ``a`` to ``b`` (...), both included (Shoemake 1985).

    Norms are interpolated linearly: every code keeps the length of a typical one.

    Raises:
        ValueError: the shapes differ, ``steps`` is below 2, or the codes point in opposite directions.
    """
    if a.shape != b.shape:
        raise ValueError(f"the codes have shapes {tuple(a.shape)} and {tuple(b.shape)}; give two of the same shape")
    if steps < 2:
        raise ValueError(f"steps is {steps}; it must be at least 2, the two ends")
    start, stop = a.double(), b.double()
    lengths = start.norm(), stop.norm()
    cosine = float((start * stop).sum() / (lengths[0] * lengths[1]))
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(angle) < 1e-6 and cosine < 0:
        raise ValueError(
            "the codes point in opposite directions: the great circle between them is not unique; choose others"
        )
    shares = torch.linspace(0, 1, steps, dtype=torch.float64).to(a.device)
    if math.sin(angle) < 1e-6:
        weights = torch.stack([1 - shares, shares])
    else:
        weights = torch.stack([torch.sin((1 - shares) * angle), torch.sin(shares * angle)]) / math.sin(angle)
    directions = [w.view(-1, *[1] * a.ndim) * v / n for w, v, n in zip(weights, (start, stop), lengths, strict=True)]
    norms = torch.lerp(lengths[0], lengths[1], shares)
    return (norms.view(-1, *[1] * a.ndim) * sum(directions)).to(a.dtype)


def sample_ids(data: Tensor, seeds: Sequence[int] | None) -> list[int]:
    """Return the seeds of samples (N, ...), by default 0, 1, ...

    Raises:
        ValueError: their number differs from N, or one is not a whole number from 0 to 2^63 - 1.
    """
    ids = list(range(len(data))) if seeds is None else [check_seed(seed) for seed in seeds]
    if len(ids) != len(data):
        raise ValueError(f"{len(ids)} seeds for {len(data)} samples: give one seed each")
    return ids


def data_states(model: ScoreFunction, images: Tensor, ids: list[int], run_seed: int) -> Tensor:
    """Return the states (N, *state_shape) float64 of images (N, C, H, W) in [0, 1], or of points, at the data's time.

    Raises:
        ValueError: the shape is not the model's, or an image has a value outside [0, 1].
    """
    if tuple(images.shape[1:]) != model.image_shape:
        raise ValueError(f"samples have shape {tuple(images.shape[1:])}; this model's are {model.image_shape}")
    data = images.detach().double().cpu()
    if model.is_image and len(data) and not (data.min() >= 0 and data.max() <= 1):
        raise ValueError(
            f"images have values from {float(data.min()):.4g} to {float(data.max()):.4g}; they must be in [0, 1], "
            "whatever the model's own range: divide 8-bit values by 255"
        )
    x = model.from_images(data)
    sde = model.sde
    if not isinstance(sde, CLDSDE):
        return x
    noise = Noise(run_seed, torch.tensor(ids, dtype=torch.int64))
    velocity = math.sqrt(sde.gamma * sde.mass) * noise.normal(VELOCITY_DRAW, model.image_shape)
    return torch.cat([x, velocity.double()], dim=1)


def _scaled(model: ScoreFunction, states: Tensor, *, invert: bool) -> Tensor:
    """Multiply codes by the standard deviations of the prior, or with ``invert`` divide states at T by them."""
    parts = states.chunk(model.sde.parts, dim=1)
    stds = model.sde.prior_stds
    return torch.cat([part / std if invert else part * std for part, std in zip(parts, stds, strict=True)], dim=1)
