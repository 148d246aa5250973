# SPDX-License-Identifier: Apache-2.0
"""Projection: after every update what is known is replaced by its own noised version (Song et al. 2021, section 5)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.conditions.levels import corrects, original_levels, run_levels
from scoresde_fast.conditions.seeds import SeedAssignment
from scoresde_fast.loop.condition import DRAWS, Data, RunContext
from scoresde_fast.ops.project import LEVELS, block_shape, operation, project
from scoresde_fast.ops.step_table import CONTROL, DeviceTable


class Projection:
    """Holds samples to means over blocks of their pixels, known for some blocks and unknown for others.

    After every corrector and predictor update x becomes x + A^T (y_t - A x), where y_t is what is known, noised as the
    SDE does it until the time t that the update ends at (Song et al. 2021, section 5 and appendix I.2), and the rows of
    A are orthonormal.  The shape of ``known`` says what A is: that of the image is inpainting, or with a sparse mask
    subsampling; (1, H, W) is colorisation, whose A is the projection on (1, 1, 1) / sqrt(3); (C, H/k, W/k) is
    super-resolution by averages over k x k pixels.  At the start what is known is as noisy as the prior, at the end,
    where the last step is denoised, it is exact.

    On CLD the velocity of what is known is replaced too, by one drawn together with the position from the kernel of the
    pair given the data; at the end, by one of the initial velocities N(0, gamma M).

    Args:
        known: (K, C', H', W') or (C', H', W'), means over equal blocks of images in [0, 1].
        mask: which are known, 1 or True: (C', H', W'), (H', W'), or with a K in front; a C' of 1 stands for every
            channel.  None: all.
        seeds: the seeds that belong to the K images, as many to each, those of the first image first; None where K is
            1: all seeds do.
        original: do what the original program does: the known part is clean at the start; the predictor leaves it at
            the time that it comes from; colorisation clears the first channel of the prior.  It needs denoise=False.

    Raises:
        ValueError: the mask is neither of 0 and 1 nor of that size, a number is not finite, or there are not as many
            seeds as images, or one of them twice.
    """

    def __init__(
        self,
        known: Tensor,
        mask: Tensor | None = None,
        *,
        seeds: Sequence[int] | None = None,
        original: bool = False,
    ) -> None:
        known = torch.as_tensor(known)  # NumPy's arrays are welcome
        if known.ndim not in (3, 4) or not known.is_floating_point() or not len(known):
            raise ValueError(
                f"known has shape {tuple(known.shape)} and dtype {str(known.dtype).removeprefix('torch.')}; it must be "
                "(C, H, W) or (K, C, H, W) floating-point numbers, in [0, 1] for images: divide those of 8 bits by 255"
            )
        self.known = known.detach().float().reshape(-1, *known.shape[-3:]).contiguous()
        self.mask = whole_mask(mask, self.known)
        # What is unknown may be anything, and is nothing from here on.
        self.known = torch.where(self.mask, self.known, 0.0)
        if not self.known.isfinite().all():
            raise ValueError("known has NaN or infinity where it is known; leave these out by the mask")
        self.original = original
        self.seeds = None if seeds is None else list(seeds)
        self._assignment = SeedAssignment.of(self.seeds, len(self.known), "known image")

    def require_seeds(self, seeds: Sequence[int]) -> None:
        """Raises ``ValueError`` unless an image belongs to every seed."""
        self._assignment.require(seeds)

    def describe(self) -> dict[str, Any]:
        """Everything of it that decides the pixels, as plain values."""
        digest = hashlib.sha256(repr((tuple(self.known.shape), self.seeds)).encode())
        for tensor in (self.known, self.mask):
            digest.update(tensor.cpu().numpy().tobytes())
        return {"kind": "projection", "sha256": digest.hexdigest(), "parity": self.original}

    def bind(self, run: RunContext) -> BoundProjection:
        """The projection in the loop of ``run``.

        Raises:
            ValueError: ``known`` does not fit the model's images, or is out of their range; `original` does not fit the
                solver.
        """
        model = run.model
        block = blocks_of(model.image_shape, tuple(self.known.shape[1:]))
        if model.is_image and not (self.known.min() >= 0 and self.known.max() <= 1):
            raise ValueError(
                f"known has values from {self.known.min():.4g} to {self.known.max():.4g}; those of images are in "
                "[0, 1]: rescale them"
            )
        if len(run.table.rows) >= DRAWS:
            raise ValueError(f"a run with a condition has fewer than {DRAWS} rows, this one {len(run.table.rows)}")
        levels = original_levels(run) if self.original else run_levels(run)
        # Noise of deviation 1 in the orthonormal coordinates is less in the means.
        levels[:, [LEVELS.noise, LEVELS.velocity_noise_x, LEVELS.velocity_noise_v]] /= math.sqrt(math.prod(block))
        control = torch.zeros(len(levels), len(CONTROL), dtype=torch.int64)
        control[:, CONTROL.draw] = run.first_draw - 2**32 + torch.arange(len(levels))
        table = DeviceTable(torch.from_numpy(levels).to(run.device, torch.float32), control.to(run.device, torch.int32))
        return BoundProjection(
            torch.where(self.mask, model.from_images(self.known), 0.0).to(run.device),
            self.mask.to(run.device),
            self._assignment,
            table,
            model.sde.parts == 2,
            operation.choose(run.device, run.backend),
            original_start(run, block) if self.original else None,
        )


@dataclass(frozen=True)
class OriginalStart:
    """How the original program begins.

    Attributes:
        clears: colorisation: the prior loses its first channel, and what is known is added to the rest.
        projects: whether the projection of the start comes then.
    """

    clears: bool
    projects: bool


def original_start(run: RunContext, block: tuple[int, ...]) -> OriginalStart:
    """How the original program begins with blocks of that shape.

    Raises:
        ValueError: it has no such blocks.
    """
    gray = block == (run.model.image_shape[0], 1, 1)
    if not gray and block != (1, 1, 1):
        raise ValueError(f"original=True is for pixels and for gray, not for averages over {block}; leave it out")
    clears = gray and block[0] > 1
    return OriginalStart(clears, projects=not (clears and corrects(run)))


@dataclass(frozen=True, eq=False)
class BoundProjection:
    """A `Projection` in the loop of one sampler; see `scoresde_fast.loop.condition.BoundCondition`.

    Attributes:
        known, mask: (K, C', H', W'), in the range of the model's data.
        assignment: which of the K belongs to a seed.
        table: a level for the start and one for the state after each row.
        pairs: states are pairs of position and velocity.
        implementation: what makes the steps.
        original: see `OriginalStart`; None: the right one.
    """

    known: Tensor
    mask: Tensor
    assignment: SeedAssignment
    table: DeviceTable
    pairs: bool
    implementation: Callable[..., None]
    original: OriginalStart | None = None

    def data(self, sample_ids: Tensor) -> Data:
        """(known, mask), (B, C', H', W') each."""
        images = self.assignment.places(sample_ids)
        return self.known[images], self.mask[images]

    def empty_data(self, batch: int) -> Data:
        """The same, with nothing known."""
        shape = (batch, *self.known.shape[1:])
        return self.known.new_zeros(shape), self.mask.new_zeros(shape)

    def start(self, state: Tensor, data: Data, sample_ids: Tensor, *, run_seed: int, precise: bool) -> None:
        """Replace what is known in the prior sample."""
        if self.original is not None and self.original.clears:
            state[:, :1] = 0
            state += torch.where(data[1], data[0], 0.0)
        if self.original is None or self.original.projects:
            self._project(state, data, sample_ids, 0, None, run_seed, precise)

    def after_row(
        self, state: Tensor, data: Data, sample_ids: Tensor, counter: Tensor, *, run_seed: int, precise: bool
    ) -> None:
        """Replace what is known in the state that row ``counter`` has made."""
        self._project(state, data, sample_ids, 1, counter, run_seed, precise)

    def _project(
        self,
        state: Tensor,
        data: Data,
        sample_ids: Tensor,
        row: int,
        counter: Tensor | None,
        run_seed: int,
        precise: bool,
    ) -> None:
        known, mask = data
        project(
            state, known, mask, sample_ids, self.table, row, counter=counter, pairs=self.pairs, run_seed=run_seed,
            precise=precise, implementation=self.implementation,
        )  # fmt: skip


def blocks_of(image: tuple[int, ...], known: tuple[int, ...]) -> tuple[int, ...]:
    """(kc, kh, kw) of the blocks of an image (C, H, W) that ``known`` (C', H', W') holds the means of.

    Raises:
        ValueError: the image does not consist of such blocks.
    """
    block = block_shape(image, known)
    if block is None:
        raise ValueError(
            f"known has shape {known}; the model's images are {image}: give that shape, (1, H, W) for gray, or "
            "(C, H/k, W/k) for averages over k x k pixels"
        )
    return block


def whole_mask(mask: Tensor | None, known: Tensor) -> Tensor:
    """The mask as bool, shaped like ``known`` (K, C', H', W').

    Raises:
        ValueError: it has another size, or other values than 0 and 1.
    """
    if mask is None:
        return torch.ones_like(known, dtype=torch.bool)
    mask = torch.as_tensor(mask)
    shape = tuple(mask.shape)
    allowed = [shape[-2:], *((channels, *shape[-2:]) for channels in (1, known.shape[1]))]
    fits = mask.ndim >= 2 and shape[-2:] == known.shape[-2:]
    if mask.ndim == 4:
        fits = fits and shape[0] in (1, len(known)) and shape[1:] in allowed
    else:
        fits = fits and shape in allowed
    if not fits:
        raise ValueError(
            f"mask has shape {shape}; for what is known, {tuple(known.shape)}, it must be "
            f"{tuple(known.shape[-2:])}, (1, ...), {tuple(known.shape[1:])}, or one for each image"
        )
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise ValueError("mask has other values than 0 and 1; 1 is known, 0 unknown: compare it with a threshold")
    return mask.to(known.device).bool().expand(known.shape).contiguous()
