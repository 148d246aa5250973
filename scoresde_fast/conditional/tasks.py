# SPDX-License-Identifier: Apache-2.0
"""The tasks by name: inpainting, colorisation, and restoring what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.conditional.streams import Holding, Method, colorization, inpainting, restoration
from scoresde_fast.conditions.operators import LinearOperator
from scoresde_fast.model import ScoreFunction

GRAY_TOLERANCE = 1e-5
"""How far the channels of a gray image may be apart: rounding, and less than one level of 8 bits."""


def inpaint(
    model: ScoreFunction,
    images: Tensor,
    mask: Tensor,
    *,
    seeds: Sequence[int] | None = None,
    samples: int = 1,
    method: Holding = "projection",
    parity: bool = False,
    **options: Any,
) -> Tensor:
    """Images whose unknown part is sampled given the known one.

    Args:
        model: any score model; it need not have been trained for this.
        images: (N, C, H, W) or (C, H, W) in [0, 1]; what is unknown in them may be anything.
        mask: 1 or True where a pixel is known: (H, W), (C, H, W), or one for each image, (N, 1 or C, H, W).
        seeds: one for each sample, those of the first image first; None: 0, 1, 2, ...
        samples: how many for each image.
        method: "projection": what is known is held, as in the paper (`Projection`); "pigdm": it guides the rest too, by
            the network's gradient (`PiGDM`): two to three times slower, and the parts fit together better.
        parity: see `Projection`.
        options: those of `scoresde_fast.Sampler`.

    Returns:
        (N samples, C, H, W) float32 in [0, 1], the samples of the first image first.  Known pixels are those of
        ``images``, bit for bit.

    Raises:
        ValueError: an image or the mask has another size, is out of range or not binary, a seed is given twice, or an
            option is none.
    """
    images = _batch("images", images, model, (model.image_shape[0],))
    seeds = _seeds_of(len(images), seeds, samples)
    return inpainting(model, images, mask, seeds=seeds, method=method, parity=parity, **options).sample(seeds)


def colorize(
    model: ScoreFunction,
    gray: Tensor,
    *,
    seeds: Sequence[int] | None = None,
    samples: int = 1,
    method: Holding = "projection",
    parity: bool = False,
    **options: Any,
) -> Tensor:
    """Colour images whose mean over the channels is ``gray``.

    A colour that does not fit in [0, 1] is made paler rather than clipped, which would change its gray.

    Args:
        gray: (N, 1, H, W) or (1, H, W) in [0, 1], or images with all channels alike.
        model, seeds, samples, method, parity, options: as in `inpaint`; "pigdm" guides, and holds in the end.

    Returns:
        (N samples, C, H, W) float32 in [0, 1], the samples of the first image first.

    Raises:
        ValueError: the model has no colours, an image has some, or as in `inpaint`.
    """
    channels = model.image_shape[0]
    if channels == 1:
        raise ValueError("the model's images have one channel; colorisation needs a model of colour images")
    gray = _batch("gray", gray, model, (1, channels))
    if not gray.isfinite().all():
        raise ValueError("gray has NaN or infinity; every pixel must be a number in [0, 1]")
    apart = (gray.amax(1) - gray.amin(1)).flatten(1).amax(1)
    if (worst := apart.max()) > GRAY_TOLERANCE:
        raise ValueError(
            f"gray has colours: the channels of image {int(apart.argmax())} are {worst:.3g} apart; give its gray, as "
            "images.mean(1, keepdim=True)"
        )
    seeds = _seeds_of(len(gray), seeds, samples)
    return colorization(model, gray[:, :1], seeds=seeds, method=method, parity=parity, **options).sample(seeds)


def restore(
    model: ScoreFunction,
    operator: LinearOperator,
    measured: Tensor,
    *,
    noise: float = 0.0,
    method: Method = "pigdm",
    scale: float = 1.0,
    seeds: Sequence[int] | None = None,
    samples: int = 1,
    **options: Any,
) -> Tensor:
    """Images that ``measured`` may have been made of, by `PiGDM` or `DPS`.

    Args:
        model: any score model; it need not have been trained for this.
        operator: how images in [0, 1] are measured, as `Blur(1.5)`; see `scoresde_fast.conditions.operators`.
        measured: (N, ...), A of N images plus noise.
        noise: the deviation of that noise; "dps" does not use it.
        method: "pigdm" or "dps".
        scale: of the guidance, see `PiGDM` and `DPS`.
        seeds, samples: as in `inpaint`.
        options: those of `scoresde_fast.Sampler`.

    Returns:
        (N samples, C, H, W) float32 in [0, 1], the samples of the first measurement first.

    Raises:
        ValueError: the operator or the measurements do not fit the model, the method is unknown, a seed is given twice,
            or an option is none.
    """
    seeds = _seeds_of(len(measured), seeds, samples)
    return restoration(
        model, operator, measured, noise=noise, method=method, scale=scale, seeds=seeds, **options
    ).sample(seeds)


def _batch(name: str, images: Tensor, model: ScoreFunction, channels: tuple[int, ...]) -> Tensor:
    """Images (N, C, H, W), with one of ``channels``.

    Raises:
        ValueError: they have another shape.
    """
    images = torch.as_tensor(images)  # NumPy's arrays are welcome
    batch = images[None] if images.ndim == 3 else images
    height, width = model.image_shape[1:]
    if batch.ndim != 4 or batch.shape[1] not in channels or batch.shape[2:] != (height, width) or not len(batch):
        allowed = " or ".join(f"(N, {count}, {height}, {width})" for count in channels)
        raise ValueError(f"{name} has shape {tuple(images.shape)}; for this model it must be {allowed}")
    return batch


def _seeds_of(count: int, seeds: Sequence[int] | None, samples: int) -> Sequence[int]:
    """The seeds of ``samples`` samples for each of ``count`` images, as the user gave them, or 0, 1, 2, ...

    Raises:
        ValueError: there are not as many, or ``samples`` is no number of samples.
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples is {samples!r}; it must be a whole number of at least 1")
    seeds = range(count * samples) if seeds is None else seeds
    if len(seeds) != count * samples:
        raise ValueError(
            f"there are {len(seeds)} seeds for {count} images with {samples} samples each; give {count * samples}"
        )
    return seeds
