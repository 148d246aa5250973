# SPDX-License-Identifier: Apache-2.0
"""Latent codes by the probability flow: encoding, decoding, interpolation (Song et al. 2021, 4.3 and appendix D.3).

The flow is a bijection between data and prior: the state at T encodes the image.  Codes are divided by the standard
deviation of the prior, so that they are standard normal for every SDE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.data.arrays import ArrayLike, as_tensor, as_unit_images
from scoresde_fast.errors import require_integer, require_positive
from scoresde_fast.flow.options import FlowOptions
from scoresde_fast.flow.probability_flow import ProbabilityFlow
from scoresde_fast.loop.inputs import Inputs
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise, check_seed, seed_sequence
from scoresde_fast.run_options import accepting_options
from scoresde_fast.sdes import CLDSDE

DEFAULTS: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}
"""With these tolerances decoded codes differ from the images by up to 1e-3; with 1e-5 it is a few times as much."""
NEGLIGIBLE = 1 / 255
"""Estimated error of fixed steps up to which there is no warning: one 8-bit step, in codes as much of their scale."""
VELOCITY_DRAW = 1
"""The draw of CLD's initial velocity."""


@accepting_options(FlowOptions)
def encode(model: ScoreFunction, images: ArrayLike, seeds: Sequence[int] | None = None, **options: Any) -> Tensor:
    """Return codes (N, *state_shape) float32 of images (N, C, H, W) in [0, 1] or of points.

    On CLD a code is of position and velocity; the initial velocity is drawn from N(0, gamma M) with the image's seed.

    Args:
        model: any `ScoreFunction` of continuous time.
        images: the data; also a NumPy array or images of Pillow.
        seeds: seeds of the velocities, by default 0, 1, ...
        options: the fields of `FlowOptions` and `RunOptions`; rtol and atol are 1e-6 by default. Also ``inputs``, with
            a row for each image, and ``guidance``: see `scoresde_fast.Sampler`.

    Raises:
        ValueError: the images have a wrong shape or range, there is not one seed per image, or an option is out of
            range.
        IntegrationError: see `ProbabilityFlow.run`.
    """
    images = with_batch(as_unit_images(images, model.image_shape[:1]), model)
    ids = sample_ids(images, seeds)
    flow = ProbabilityFlow(model, to_data=False, defaults=DEFAULTS, **with_inputs(options, ids))
    states = data_states(model, images, ids, flow.run_options.run_seed)
    result = flow.run(states, ids)
    stds = model.prior(torch.ones_like(result.states))
    flow.warn_of_error(result.state_error / stds, NEGLIGIBLE, "codes", "standard deviations")
    return (result.states / stds).float()


class Decoder:
    """Decodes batches of codes.

    Args:
        model: any `ScoreFunction` of continuous time.
        temperature: factor of the codes; below 1 the images are more typical and less varied.
        options: the fields of `FlowOptions` and `RunOptions`, with the default tolerances of `encode`.

    Raises:
        ValueError: the temperature is not a positive number, or an option is out of range.
    """

    @accepting_options(FlowOptions)
    def __init__(self, model: ScoreFunction, *, temperature: float = 1.0, **options: Any) -> None:
        require_positive("temperature", temperature)
        self.temperature = temperature
        self.flow = ProbabilityFlow(model, to_data=True, defaults=DEFAULTS, **options)

    def decode(self, codes: ArrayLike, seeds: Sequence[int] | None = None, on_step: OnStep | None = None) -> Tensor:
        """Return images (N, C, H, W) in [0, 1], or points, of codes (N, *state_shape).

        ``seeds`` identify the samples in error messages, and with ``strict`` determine their slots in a batch.

        Raises:
            ValueError: the codes do not have the model's shape.
            IntegrationError: see `ProbabilityFlow.run`.
        """
        model, codes = self.flow.model, as_tensor(codes)
        if tuple(codes.shape[1:]) != model.state_shape:
            raise ValueError(f"codes have shape {tuple(codes.shape[1:])}, but this model's have {model.state_shape}")
        states = model.prior(self.temperature * codes.double().cpu())
        result = self.flow.run(states, sample_ids(codes, seeds), on_step)
        data, error = (each.chunk(model.sde.parts, dim=1)[0] for each in (result.states, result.state_error))
        self.flow.warn_of_error(error / model.span, NEGLIGIBLE, "decoded samples", "of the data's range")
        return model.to_images(data).float()


@accepting_options(FlowOptions)
def decode(model: ScoreFunction, codes: ArrayLike, *, temperature: float = 1.0, **options: Any) -> Tensor:
    """Return images (N, C, H, W) in [0, 1], or points, of codes (N, *state_shape).

    Codes are from `encode`, or standard normal noise; the other arguments and the errors are as in `Decoder`.
    """
    return Decoder(model, temperature=temperature, **with_inputs(options, range(len(codes)))).decode(codes)


def interpolate(a: ArrayLike, b: ArrayLike, steps: int) -> Tensor:
    """Return ``steps`` codes (steps, ...) on the great circle from ``a`` to ``b`` (...), both included (Shoemake 1985).

    Norms are interpolated linearly, so that every code has the norm of a typical one.

    Raises:
        ValueError: the shapes differ, ``steps`` is below 2, or the codes point in opposite directions.
    """
    a, b = as_tensor(a), as_tensor(b)
    if a.shape != b.shape:
        raise ValueError(f"the codes have shapes {tuple(a.shape)} and {tuple(b.shape)}; give two of the same shape")
    require_integer("steps", steps, 2)
    start, stop = a.double(), b.double()
    start_norm, stop_norm = start.norm(), stop.norm()
    cosine = float((start * stop).sum() / (start_norm * stop_norm))
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(angle) < 1e-6 and cosine < 0:
        raise ValueError(
            "the codes point in opposite directions: the great circle between them is not unique; choose others"
        )
    fractions = torch.linspace(0, 1, steps, dtype=torch.float64, device=a.device).view(-1, *[1] * a.ndim)
    if math.sin(angle) < 1e-6:
        start_weights, stop_weights = 1 - fractions, fractions
    else:
        start_weights = torch.sin((1 - fractions) * angle) / math.sin(angle)
        stop_weights = torch.sin(fractions * angle) / math.sin(angle)
    directions = start_weights * start / start_norm + stop_weights * stop / stop_norm
    interpolated = torch.lerp(start_norm, stop_norm, fractions) * directions
    return interpolated.to(a.dtype if a.is_floating_point() else torch.float32)


def sample_ids(data: Tensor, seeds: Sequence[int] | None) -> list[int]:
    """Return the seeds of samples (N, ...), by default 0, 1, ...

    Raises:
        ValueError: there is not one seed per sample, or a seed is not an integer from 0 to 2^63 - 1.
    """
    ids = list(range(len(data))) if seeds is None else [check_seed(seed) for seed in seed_sequence(seeds)]
    if len(ids) != len(data):
        raise ValueError(f"there are {len(ids)} seeds for {len(data)} samples: give one seed per sample")
    return ids


def with_batch(images: Tensor, model: ScoreFunction) -> Tensor:
    """Return one image (C, H, W) as (1, C, H, W), and others unchanged."""
    return images[None] if images.shape == model.image_shape else images


def with_inputs(options: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Return options in which the rows of "inputs", if any, are assigned to the seeds in order."""
    return {**options, "inputs": Inputs.of(options.get("inputs"), seeds)}


def data_states(model: ScoreFunction, images: Tensor, ids: list[int], run_seed: int) -> Tensor:
    """Return the initial states (N, *state_shape) float64 of images (N, C, H, W) in [0, 1], or of points.

    On CLD the velocity is sampled from N(0, gamma M) with the seeds ``ids``.

    Raises:
        ValueError: the images do not have the model's shape, or an image has a value outside [0, 1].
    """
    if tuple(images.shape[1:]) != model.image_shape:
        raise ValueError(f"samples have shape {tuple(images.shape[1:])}, but this model's have {model.image_shape}")
    data = images.detach().double().cpu()
    if model.is_image:
        require_unit_range(data)
    x, sde = model.from_images(data), model.sde
    if not isinstance(sde, CLDSDE):
        return x
    noise = Noise(run_seed, torch.tensor(ids, dtype=torch.int64, device="cpu"))
    velocity = math.sqrt(sde.gamma * sde.mass) * noise.normal(VELOCITY_DRAW, model.image_shape)
    return torch.cat([x, velocity.double()], dim=1)


def require_unit_range(images: Tensor) -> None:
    """Raise ValueError unless the values of ``images`` (N, C, H, W) are in [0, 1]."""
    if not ((images >= 0) & (images <= 1)).all():
        raise ValueError(
            f"images have values from {float(images.min()):.4g} to {float(images.max()):.4g}; they must be in [0, 1], "
            "whatever the model's own range: divide 8-bit values by 255"
        )
