# SPDX-License-Identifier: Apache-2.0
"""The tasks batch by batch, for what writes images as they come: samplers, and what their images want in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.condition import Condition
from scoresde_fast.conditional.of_seeds import OfSeeds
from scoresde_fast.conditional.operators import LinearOperator
from scoresde_fast.conditional.posterior import DPS, PiGDM
from scoresde_fast.conditional.projection import Projection, whole_mask
from scoresde_fast.conditional.tasks import Method, fitting_colours
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sampler import Sampler
from scoresde_fast.watch import OnStep


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

    def stream(
        self, seeds: Sequence[int], batch_size: int | None = None, on_step: OnStep | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """See `Sampler.stream`."""
        for batch, images in self.sampler.stream(seeds, batch_size, on_step):
            numbers = self.of_seeds.places(torch.tensor(batch, device=images.device))
            yield batch, self.finish(images, numbers)


def inpainting(
    model: ScoreFunction, images: Tensor, mask: Tensor, *, seeds: Sequence[int], parity: bool = False, **options: Any
) -> FinishedSampler:
    """What `scoresde_fast.inpaint` samples by.

    Args:
        images: (N, C, H, W) in [0, 1].
        mask: 1 or True where a pixel is known; see `scoresde_fast.inpaint`.
        seeds: as many for each image, those of the first one first.
        parity, options: as in `scoresde_fast.inpaint`.

    Raises:
        ValueError: as `Projection` and `Sampler`.
    """
    known = whole_mask(mask, images)

    def keep(filled: Tensor, numbers: Tensor) -> Tensor:
        where, exact = (tensor.to(filled.device)[numbers] for tensor in (known, images))
        return torch.where(where, exact, filled)

    return _projected(model, images, mask, seeds, parity, options, keep)


def colorization(
    model: ScoreFunction, gray: Tensor, *, seeds: Sequence[int], parity: bool = False, **options: Any
) -> FinishedSampler:
    """What `scoresde_fast.colorize` samples by.

    Args:
        gray: (N, 1, H, W) in [0, 1].
        seeds, parity, options: as in `inpainting`.

    Raises:
        ValueError: as `Projection` and `Sampler`.
    """

    def fit(coloured: Tensor, numbers: Tensor) -> Tensor:
        return fitting_colours(coloured, gray.to(coloured.device)[numbers])

    return _projected(model, gray, None, seeds, parity, options, fit)


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
        ValueError: as `PiGDM` or `DPS`, and `Sampler`.
    """
    condition: Condition
    if method == "pigdm":
        condition = PiGDM(operator, measured, noise=noise, scale=scale, seeds=seeds)
    else:
        condition = DPS(operator, measured, scale=scale, seeds=seeds)
    sampler = Sampler(model, condition=condition, **options)
    return FinishedSampler(sampler, _of_seeds(seeds, measured), _as_they_are)


def _projected(
    model: ScoreFunction,
    known: Tensor,
    mask: Tensor | None,
    seeds: Sequence[int],
    parity: bool,
    options: dict[str, Any],
    finish: Callable[[Tensor, Tensor], Tensor],
) -> FinishedSampler:
    if parity:
        options = {"denoise": False, **options}
    condition = Projection(known, mask, seeds=seeds, parity=parity)
    sampler = Sampler(model, condition=condition, **options)
    return FinishedSampler(sampler, _of_seeds(seeds, known), _as_they_are if parity else finish)


def _of_seeds(seeds: Sequence[int], images: Tensor) -> OfSeeds:
    return OfSeeds.of(seeds, len(images), "image")


def _as_they_are(images: Tensor, numbers: Tensor) -> Tensor:
    return images
