# SPDX-License-Identifier: Apache-2.0
"""The tasks as samplers: a condition, and what its images want in the end; batch by batch, or all together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from scoresde_fast.conditions.dps import DPS
from scoresde_fast.conditions.of_seeds import OfSeeds
from scoresde_fast.conditions.operators import Gray, LinearOperator, Mask
from scoresde_fast.conditions.pigdm import PiGDM
from scoresde_fast.conditions.projection import Projection, whole_mask
from scoresde_fast.errors import unknown
from scoresde_fast.loop.condition import Condition
from scoresde_fast.loop.watch import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sampler import Sampler

Method = Literal["pigdm", "dps"]
Holding = Literal["projection", "pigdm"]
LEAST_NOISE = 0.02
"""What `PiGDM` takes for the noise of what is exact: about that of the last step of a run."""


@dataclass(frozen=True, eq=False)
class FinishedSampler:
    """A sampler, and what is done to its images; `scoresde_fast.generate` takes it for one.

    Attributes:
        sampler: with the condition.
        of_seeds: the number of the image that each seed belongs to.
        finish: of samples (B, C, H, W) and the numbers of their images (B,).
    """

    sampler: Sampler
    of_seeds: OfSeeds
    finish: Callable[[Tensor, Tensor], Tensor]

    @property
    def nfe(self) -> int | None:
        """See `Sampler.nfe`."""
        return self.sampler.nfe

    @property
    def device(self) -> torch.device:
        """Where it samples."""
        return self.sampler.device

    @property
    def batch_dependent(self) -> bool:
        """See `Sampler.batch_dependent`."""
        return self.sampler.batch_dependent

    def describe(self) -> dict[str, Any]:
        """See `Sampler.describe`."""
        return self.sampler.describe()

    def sample(self, seeds: Sequence[int]) -> Tensor:
        """The images of the seeds, in their order; see `Sampler.sample`."""
        return torch.cat([images for _, images in self.stream(seeds)])

    def stream(
        self, seeds: Sequence[int], batch_size: int | None = None, on_step: OnStep | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """See `Sampler.stream`."""
        for batch, images in self.sampler.stream(seeds, batch_size, on_step):
            numbers = self.of_seeds.places(torch.tensor(batch, device=images.device))
            yield batch, self.finish(images, numbers)


def inpainting(
    model: ScoreFunction,
    images: Tensor,
    mask: Tensor,
    *,
    seeds: Sequence[int],
    method: Holding = "projection",
    parity: bool = False,
    **options: Any,
) -> FinishedSampler:
    """What `scoresde_fast.inpaint` samples by.

    Args:
        images: (N, C, H, W) in [0, 1].
        mask: 1 or True where a pixel is known; see `scoresde_fast.inpaint`.
        seeds: as many for each image, those of the first one first.
        method, parity, options: as in `scoresde_fast.inpaint`.

    Raises:
        ValueError: the method is unknown, or guides and has several masks; or as `Projection` and `Sampler`.
    """
    known = whole_mask(mask, images)
    conditions: list[Condition] = [Projection(images, mask, seeds=seeds, parity=parity)]
    if _guides(method, parity):
        masks = known[:1] if (known == known[:1]).all() else known
        conditions.append(PiGDM(Mask(masks), images.where(known, 0.0), noise=LEAST_NOISE, seeds=seeds))

    def keep(filled: Tensor, numbers: Tensor) -> Tensor:
        # The way to the model's range and back rounds.
        where, exact = (tensor.to(filled.device)[numbers] for tensor in (known, images.float()))
        return torch.where(where, exact, filled)

    return _finished(model, images, conditions, seeds, parity, options, keep)


def colorization(
    model: ScoreFunction,
    gray: Tensor,
    *,
    seeds: Sequence[int],
    method: Holding = "projection",
    parity: bool = False,
    **options: Any,
) -> FinishedSampler:
    """What `scoresde_fast.colorize` samples by.

    Args:
        gray: (N, 1, H, W) in [0, 1].
        seeds, method, parity, options: as in `inpainting`.

    Raises:
        ValueError: the method is unknown; or as `Projection` and `Sampler`.
    """
    condition: Condition
    if _guides(method, parity):
        condition = PiGDM(Gray(model.image_shape[0]), gray, noise=LEAST_NOISE, seeds=seeds)
    else:
        condition = Projection(gray, seeds=seeds, parity=parity)

    def fit(coloured: Tensor, numbers: Tensor) -> Tensor:
        return fitting_colours(coloured, gray.to(coloured.device, torch.float32)[numbers])

    return _finished(model, gray, [condition], seeds, parity, options, fit)


def restoration(
    model: ScoreFunction,
    operator: LinearOperator,
    measured: Tensor,
    *,
    noise: float,
    method: Method,
    scale: float,
    seeds: Sequence[int],
    **options: Any,
) -> FinishedSampler:
    """What `scoresde_fast.restore` samples by, with the arguments of it.

    Raises:
        ValueError: the method is unknown; or as `PiGDM` or `DPS`, and `Sampler`.
    """
    if method not in get_args(Method):
        raise ValueError(unknown("method", method, get_args(Method)))
    condition: Condition
    if method == "pigdm":
        condition = PiGDM(operator, measured, noise=noise, scale=scale, seeds=seeds)
    else:
        condition = DPS(operator, measured, scale=scale, seeds=seeds)
    sampler = Sampler(model, condition=condition, **options)
    return FinishedSampler(sampler, _of_seeds(seeds, measured), _as_they_are)


def _guides(method: Holding, parity: bool) -> bool:
    """Whether what is known guides the rest.

    Raises:
        ValueError: the method is unknown, or not the original program's.
    """
    if method not in get_args(Holding):
        raise ValueError(unknown("method", method, get_args(Holding)))
    if parity and method != "projection":
        raise ValueError(f"parity=True is the original's projection; leave out method={method!r}")
    return method == "pigdm"


def _finished(
    model: ScoreFunction,
    known: Tensor,
    conditions: Sequence[Condition],
    seeds: Sequence[int],
    parity: bool,
    options: dict[str, Any],
    finish: Callable[[Tensor, Tensor], Tensor],
) -> FinishedSampler:
    if parity:
        options = {"denoise": False, **options}
    sampler = Sampler(model, condition=conditions, **options)
    return FinishedSampler(sampler, _of_seeds(seeds, known), _as_they_are if parity else finish)


def _of_seeds(seeds: Sequence[int], images: Tensor) -> OfSeeds:
    return OfSeeds.of(seeds, len(images), "image")


def _as_they_are(images: Tensor, numbers: Tensor) -> Tensor:
    return images


def fitting_colours(images: Tensor, gray: Tensor) -> Tensor:
    """Images (N, C, H, W) with their hues and the mean ``gray`` (N, 1, H, W): as far from it as [0, 1] has room."""
    away = images - images.mean(1, keepdim=True)
    room = torch.where(away > 0, (1 - gray) / away, gray / -away).where(away != 0, 1.0)
    return (gray + room.amin(1, keepdim=True).clamp(max=1) * away).clamp(0, 1)
