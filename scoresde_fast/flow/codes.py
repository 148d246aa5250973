# SPDX-License-Identifier: Apache-2.0
"""Encoding, decoding and interpolation by the probability flow (Song et al. 2021, section 4.3 and appendix D.3).

The flow maps data to the prior and back without loss, so that the state at T is a code of the image.  Codes are given
as the standard normals that the prior is made of, whatever its deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.flow.options import FlowOptions
from scoresde_fast.flow.probability_flow import ProbabilityFlow
from scoresde_fast.keywords import accepting_options
from scoresde_fast.loop.watch import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise, check_seed
from scoresde_fast.sdes import CLDSDE

DEFAULTS: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}
"""Tolerances that bring an image back to 1e-3; with 1e-5, the default of likelihoods, a few 1e-3 are left."""
VELOCITY_DRAW = 1
"""The draw of CLD's initial velocity."""


@accepting_options(FlowOptions)
def encode(model: ScoreFunction, images: Tensor, seeds: Sequence[int] | None = None, **options: Any) -> Tensor:
    """Codes (N, *state_shape) float32 of images (N, C, H, W) in [0, 1]; of points as they are.

    On CLD the velocity at the data is drawn as N(0, gamma M) of the image's seed, and a code is of position and
    velocity.

    Args:
        model: any `ScoreFunction` of continuous time.
        images: the data.
        seeds: of the velocities; None: 0, 1, ...
        options: those of `FlowOptions` and `RunOptions`; rtol and atol are 1e-6 unless given.

    Raises:
        ValueError: the images' shape, range or number of seeds does not fit; or an option is out of its range.
        IntegrationError: see `ProbabilityFlow.run`.
    """
    ids = sample_ids(images, seeds)
    flow = ProbabilityFlow(model, to_data=False, defaults=DEFAULTS, **options)
    states = data_states(model, images, ids, flow.run_options.run_seed)
    flowed = flow.run(states, ids).states
    return _scaled(model, flowed, invert=True).float()


class Decoder:
    """Decodes one batch of codes after another.

    Args:
        model: any `ScoreFunction` of continuous time.
        temperature: factor of the codes: less than 1 gives more usual, less various images.
        options: those of `FlowOptions` and `RunOptions`, with the usual tolerances of `encode`.

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
        """Images (N, C, H, W) in [0, 1] of codes (N, *state_shape); points as they are.

        ``seeds`` name the samples in errors, and with ``strict`` give each its place.

        Raises:
            ValueError: the codes' shape does not fit.
            IntegrationError: see `ProbabilityFlow.run`.
        """
        model = self.flow.model
        if tuple(codes.shape[1:]) != model.state_shape:
            raise ValueError(f"codes have shape {tuple(codes.shape[1:])}; this model's are {model.state_shape}")
        states = _scaled(model, self.temperature * codes.double().cpu(), invert=False)
        flowed = self.flow.run(states, sample_ids(codes, seeds), on_step).states
        return model.to_images(flowed.chunk(model.sde.parts, dim=1)[0]).float()


@accepting_options(FlowOptions)
def decode(model: ScoreFunction, codes: Tensor, *, temperature: float = 1.0, **options: Any) -> Tensor:
    """Images (N, C, H, W) in [0, 1] of codes (N, *state_shape): one batch by a `Decoder`, with its errors.

    Args:
        model: any `ScoreFunction` of continuous time.
        codes: standard normals, or what `encode` made.
        temperature: factor of the codes.
        options: those of `FlowOptions` and `RunOptions`.
    """
    return Decoder(model, temperature=temperature, **options).decode(codes)


def interpolate(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """``steps`` codes (steps, ...) on the great circle from ``a`` to ``b`` (...), both included (Shoemake 1985).

    The norms are interpolated linearly, so that a code on the way is as long as a code is.

    Raises:
        ValueError: the shapes differ, ``steps`` is below 2, or the codes point in opposite directions.
    """
    if a.shape != b.shape:
        raise ValueError(f"codes of shapes {tuple(a.shape)} and {tuple(b.shape)} have no way between them")
    if steps < 2:
        raise ValueError(f"steps is {steps}; an interpolation has at least its two ends")
    start, stop = a.double(), b.double()
    lengths = start.norm(), stop.norm()
    cosine = float((start * stop).sum() / (lengths[0] * lengths[1]))
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(angle) < 1e-6 and cosine < 0:
        raise ValueError("the codes point in opposite directions, between which there is no shortest way")
    shares = torch.linspace(0, 1, steps, dtype=torch.float64).to(a.device)
    if math.sin(angle) < 1e-6:
        weights = torch.stack([1 - shares, shares])
    else:
        weights = torch.stack([torch.sin((1 - shares) * angle), torch.sin(shares * angle)]) / math.sin(angle)
    directions = [w.view(-1, *[1] * a.ndim) * v / n for w, v, n in zip(weights, (start, stop), lengths, strict=True)]
    norms = torch.lerp(lengths[0], lengths[1], shares)
    return (norms.view(-1, *[1] * a.ndim) * sum(directions)).to(a.dtype)


def sample_ids(data: Tensor, seeds: Sequence[int] | None) -> list[int]:
    """The seeds of samples (N, ...), by default 0, 1, ...

    Raises:
        ValueError: their number is another, or one is not a whole number from 0 to 2^63 - 1.
    """
    ids = list(range(len(data))) if seeds is None else [check_seed(seed) for seed in seeds]
    if len(ids) != len(data):
        raise ValueError(f"{len(ids)} seeds for {len(data)} samples: give one seed each")
    return ids


def data_states(model: ScoreFunction, images: Tensor, ids: list[int], run_seed: int) -> Tensor:
    """The states (N, *state_shape) float64 at the data's time of images (N, C, H, W) in [0, 1], or of points.

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
    """Between standard normals and states at T."""
    parts = states.chunk(model.sde.parts, dim=1)
    stds = model.sde.prior_stds
    return torch.cat([part / std if invert else part * std for part, std in zip(parts, stds, strict=True)], dim=1)
