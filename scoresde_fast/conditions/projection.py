# SPDX-License-Identifier: Apache-2.0
"""Projection: known pixels replaced by their own noised version after every update (Song et al. 2021, section 5)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.conditions.operators.mask import whole_mask
from scoresde_fast.conditions.seeds import SeedAssignment
from scoresde_fast.loop.condition import DRAWS, Data, RunContext
from scoresde_fast.ops.project import LEVEL_WIDTH, LEVELS, block_shape, operation, project
from scoresde_fast.ops.step_table import CONTROL, DeviceTable
from scoresde_fast.sdes import CLDSDE, SDE, Array, ScalarSDE
from scoresde_fast.solvers import find_solver


class Projection:
    """Holds samples to known means over blocks of their pixels; some blocks may be unknown.

    After every corrector and predictor update x becomes x + A^T (y_t - A x).  y_t is the known data noised by the SDE
    until the time t at which the update ends (Song et al. 2021, section 5 and appendix I.2); the rows of A are
    orthonormal.  The shape of ``known`` decides A: the image's shape is inpainting; (1, H, W) is colorisation, where A
    projects on (1, 1, 1) / sqrt(3); (C, H/k, W/k) is super-resolution from averages over k x k pixels.  At the start
    the known data is as noisy as the prior; at the end, with denoising, it is exact.

    On CLD the known velocity is replaced too: by one drawn together with the position from the kernel of the pair given
    the data, and at the end by an initial velocity N(0, gamma M).

    Args:
        known: (K, C', H', W') or (C', H', W'), means over equal blocks of images in [0, 1].
        mask: 1 or True where a mean is known: (C', H', W'), (H', W'), or with a K in front; a C' of 1 stands for every
            channel.  None: all are known.
        seeds: the seeds of the K images, in equal consecutive blocks; None if K is 1 and it serves all seeds.
        original: repeat the original program: known pixels are clean at the start, the predictor leaves them at the
            time where it starts, and colorisation clears the first channel of the prior.  It needs denoise=False.

    Raises:
        ValueError: the mask has another size or values other than 0 and 1, a number is not finite, a seed is given
            twice, or the seeds do not divide among the images.
    """

    def __init__(
        self,
        known: Tensor,
        mask: Tensor | None = None,
        *,
        seeds: Sequence[int] | None = None,
        original: bool = False,
    ) -> None:
        known = torch.as_tensor(known)  # accepts NumPy arrays
        if known.ndim not in (3, 4) or not known.is_floating_point() or not len(known):
            raise ValueError(
                f"known has shape {tuple(known.shape)} and dtype {str(known.dtype).removeprefix('torch.')}; it must be "
                "(C, H, W) or (K, C, H, W) floating-point numbers, in [0, 1] for images: divide 8-bit values by 255"
            )
        self.known = known.detach().float().reshape(-1, *known.shape[-3:]).contiguous()
        self.mask = whole_mask(mask, self.known)
        # Unknown pixels may hold anything, even NaN.
        self.known = torch.where(self.mask, self.known, 0.0)
        if not self.known.isfinite().all():
            raise ValueError("known has NaN or infinity at known pixels; exclude these by the mask")
        self.original = original
        self.seeds = None if seeds is None else list(seeds)
        self._assignment = SeedAssignment.of(self.seeds, len(self.known), "known image")

    def require_seeds(self, seeds: Sequence[int]) -> None:
        """Raise ``ValueError`` unless an image belongs to every seed."""
        self._assignment.require(seeds)

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the pixels, as plain values."""
        digest = hashlib.sha256(repr((tuple(self.known.shape), self.seeds)).encode())
        for tensor in (self.known, self.mask):
            digest.update(tensor.cpu().numpy().tobytes())
        # "parity" is the former name of `original`, kept so that older sets can be resumed.
        return {"kind": "projection", "sha256": digest.hexdigest(), "parity": self.original}

    def bind(self, run: RunContext) -> BoundProjection:
        """Return the projection in the loop of ``run``.

        Raises:
            ValueError: ``known`` does not fit the model's images or their range, or `original` does not fit the solver.
        """
        model, known = run.model, self.known
        block = block_shape(model.image_shape, tuple(known.shape[1:]))
        if block is None:
            raise ValueError(
                f"known has shape {tuple(known.shape[1:])}; the model's images are {model.image_shape}: give that "
                "shape, (1, H, W) for gray, or (C, H/k, W/k) for averages over k x k pixels"
            )
        if model.is_image and not (known.min() >= 0 and known.max() <= 1):
            raise ValueError(
                f"known has values from {known.min():.4g} to {known.max():.4g}; images have values in [0, 1]: rescale"
            )
        if len(run.table.rows) >= DRAWS:
            raise ValueError(f"a run with a condition has fewer than {DRAWS} rows, this one {len(run.table.rows)}")
        levels = original_noise_levels(run) if self.original else run_noise_levels(run)
        # Noise of deviation 1 in the orthonormal coordinates is smaller in the means.
        levels[:, [LEVELS.noise, LEVELS.velocity_noise_x, LEVELS.velocity_noise_v]] /= math.sqrt(math.prod(block))
        control = torch.zeros(len(levels), len(CONTROL), dtype=torch.int64)
        control[:, CONTROL.draw] = run.first_draw - 2**32 + torch.arange(len(levels))
        table = DeviceTable(torch.from_numpy(levels).to(run.device, torch.float32), control.to(run.device, torch.int32))
        return BoundProjection(
            torch.where(self.mask, model.from_images(known), 0.0).to(run.device),
            self.mask.to(run.device),
            self._assignment,
            table,
            model.sde.parts == 2,
            operation.choose(run.device, run.backend),
            *(_original_start(run, block) if self.original else (False, True)),
        )


@dataclass(frozen=True, eq=False)
class BoundProjection:
    """A `Projection` in the loop of one sampler; see `scoresde_fast.loop.condition.StateCondition`."""

    known: Tensor  # (K, C', H', W'), in the range of the model's data
    mask: Tensor  # (K, C', H', W')
    assignment: SeedAssignment
    table: DeviceTable  # a noise level for the start and one for the state after each row
    pairs: bool  # states are pairs of position and velocity
    implementation: Callable[..., None]
    clears_channel: bool = False  # as in the original's colorisation: the prior's first channel becomes the known gray
    projects_start: bool = True

    def data(self, sample_ids: Tensor) -> Data:
        """Return (known, mask), (B, C', H', W') each."""
        numbers = self.assignment.numbers(sample_ids)
        return self.known[numbers], self.mask[numbers]

    def empty_data(self, batch: int) -> Data:
        """Return tensors like `data`, without known pixels."""
        shape = (batch, *self.known.shape[1:])
        return self.known.new_zeros(shape), self.mask.new_zeros(shape)

    def start(self, state: Tensor, data: Data, sample_ids: Tensor, *, run_seed: int, precise: bool) -> None:
        """Replace the known part of the prior sample."""
        if self.clears_channel:
            state[:, :1] = 0
            state += torch.where(data[1], data[0], 0.0)
        if self.projects_start:
            self._project(state, data, sample_ids, 0, None, run_seed, precise)

    def after_row(
        self, state: Tensor, data: Data, sample_ids: Tensor, counter: Tensor, *, run_seed: int, precise: bool
    ) -> None:
        """Replace the known part of the state after row ``counter``."""
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


def marginal_noise_levels(sde: SDE, times: Array) -> Array:
    """Return the kernel x(t) | x(0) at ``times`` (n,) as noise levels (n, 5), by `LevelColumns`.

    On CLD it is the kernel of the pair with the initial velocity N(0, gamma M) integrated out (Dockhorn et al. 2022,
    appendix): position and velocity are drawn together.
    """
    levels = np.zeros((len(times), LEVEL_WIDTH))
    if isinstance(sde, CLDSDE):
        whole = replace(sde, objective="hsm")
        mean, factor = whole.marginal(times).mean, whole.cholesky(times)
        levels[:, LEVELS.scale], levels[:, LEVELS.velocity_scale] = mean[:, 0, 0], mean[:, 1, 0]
        levels[:, LEVELS.noise] = factor[:, 0, 0]
        levels[:, LEVELS.velocity_noise_x], levels[:, LEVELS.velocity_noise_v] = factor[:, 1, 0], factor[:, 1, 1]
        return levels
    assert isinstance(sde, ScalarSDE)
    levels[:, LEVELS.scale], levels[:, LEVELS.noise] = sde.marginal(times)
    return levels


def run_noise_levels(run: RunContext) -> Array:
    """Return the noise levels (rows + 1, 5) of known pixels, at the start and after each row.

    Each row leaves the known pixels at the time where the next one starts.  The last one leaves the data itself with
    denoising, else the time at which sampling stops.
    """
    sde, options = run.model.sde, run.options
    levels = marginal_noise_levels(sde, run.table.times)
    eps = sde.sampling_eps if options.eps is None else options.eps
    last = _data_level(sde) if options.denoise else marginal_noise_levels(sde, np.array([eps]))
    return np.concatenate([levels, last])


def original_noise_levels(run: RunContext) -> Array:
    """Return the levels of the original program, whose predictor leaves known pixels at the time where it starts.

    Without a corrector the projection before the next predictor is still made, at that predictor's time.  At the end
    the known pixels are the mean at the last time.

    Raises:
        ValueError: the original program has no such run.
    """
    sde, options = run.model.sde, run.options
    solver = find_solver(options.predictor, sde, probability_flow=options.probability_flow)
    if not (solver.published and isinstance(sde, ScalarSDE)):
        raise ValueError(
            f"original=True repeats the original program, which has no solver {options.solver!r} on the SDE "
            f"{sde.name!r}; leave it out, or choose 'pc', 'euler_maruyama', 'reverse_diffusion' or 'ancestral'"
        )
    if options.denoise:
        raise ValueError(
            "original=True keeps the noise of the last step at unknown pixels, as the original program does; "
            "choose denoise=False with it"
        )
    levels = marginal_noise_levels(sde, run.table.times)
    last = levels[-1:] * (np.arange(LEVEL_WIDTH) == LEVELS.scale)
    return np.concatenate([_data_level(sde), levels[:-1], last] if _corrects(run) else [levels, last])


def _data_level(sde: SDE) -> Array:
    """Return the level (1, 5) of the data itself; on CLD with a velocity N(0, gamma M)."""
    levels = np.zeros((1, LEVEL_WIDTH))
    levels[0, LEVELS.scale] = 1
    if isinstance(sde, CLDSDE):
        levels[0, LEVELS.velocity_noise_v] = math.sqrt(sde.gamma * sde.mass)
    return levels


def _original_start(run: RunContext, block: tuple[int, ...]) -> tuple[bool, bool]:
    """Return whether the original program clears a channel of the prior, and whether it projects the start.

    Raises:
        ValueError: it has no blocks of that shape.
    """
    gray = block == (run.model.image_shape[0], 1, 1)
    if not gray and block != (1, 1, 1):
        raise ValueError(f"original=True is for pixels and for gray, not for averages over {block}; leave it out")
    clears_channel = gray and block[0] > 1
    return clears_channel, not (clears_channel and _corrects(run))


def _corrects(run: RunContext) -> bool:
    return run.options.paired_corrector != "none"
