# SPDX-License-Identifier: Apache-2.0
"""Projection: replaces known pixels by their diffused values after every update (Song et al. 2021, section 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.conditions.operators.mask import expand_mask
from scoresde_fast.data.arrays import ArrayLike, as_unit_images
from scoresde_fast.loop.condition import DRAWS, Data, RunContext
from scoresde_fast.loop.seeds import BoundItems, SeedAssignment, SeededCondition
from scoresde_fast.ops.project import block_shape, operation, project
from scoresde_fast.ops.step_table import CONTROL, LEVEL_WIDTH, LEVELS, DeviceTable
from scoresde_fast.sdes import CLDSDE, SDE, Array, ScalarSDE
from scoresde_fast.solvers import end_time, find_solver


class Projection(SeededCondition):
    """Constrains samples to known block averages of their pixels; any block may be left unknown.

    After every corrector and predictor update x becomes x + A^T (y_t - A x).  y_t is the known data diffused to the
    time t at the end of the update (Song et al. 2021, section 5 and appendix I.2).  The rows of A are orthonormal.  The
    shape of ``known`` selects A: the image's shape is inpainting; (1, H, W) is colorization, where A projects on
    (1, 1, 1) / sqrt(3); (C, H/k, W/k) is super-resolution from averages over k x k pixels.  At the start the known data
    is as noisy as the prior; at the end, with denoising, it is exact.

    On CLD the velocity of known pixels is replaced too: sampled jointly with the position from p(x_t, v_t | x_0), and
    after denoising from N(0, gamma M).

    Args:
        known: (K, C', H', W') or (C', H', W'), means over equal blocks of images in [0, 1].
        mask: 1 or True where a mean is known: (H', W'), (C' or 1, H', W') or (K or 1, C' or 1, H', W'); dimensions of
            1 are broadcast.  None: all means are known.
        seeds: seeds assigned to the K images in equal consecutive blocks; None for a single image, which is used for
            every seed.
        original: reproduce the official score_sde code: the known pixels start noise-free, the projection after a
            predictor step uses the time at the start of that step, and colorization zeroes the prior's first channel.
            Requires denoise=False.

    Raises:
        ValueError: the mask has another size or values other than 0 and 1, a known mean is not finite, a seed is
            repeated, or the seeds do not divide among the images.
    """

    def __init__(
        self,
        known: ArrayLike,
        mask: ArrayLike | None = None,
        *,
        seeds: Sequence[int] | None = None,
        original: bool = False,
    ) -> None:
        known = as_unit_images(known)
        if known.ndim not in (3, 4) or not known.is_floating_point() or not len(known):
            raise ValueError(
                f"known has shape {tuple(known.shape)} and dtype {str(known.dtype).removeprefix('torch.')}; it must be "
                "(C, H, W) or (K, C, H, W) floating-point numbers, in [0, 1] for images: divide 8-bit values by 255"
            )
        self.known = known.detach().float().reshape(-1, *known.shape[-3:]).contiguous()
        self.mask = expand_mask(mask, self.known.shape).to(self.known.device)
        # Unknown pixels may have any value, even NaN.
        self.known = torch.where(self.mask, self.known, 0.0)
        if not self.known.isfinite().all():
            raise ValueError("known contains NaN or infinity at known pixels; mask them out")
        self.original = original
        self.assignment = SeedAssignment(len(self.known), "known image", seeds)

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""
        # "parity" is the former name of `original`, kept so that older sets can be resumed.
        digest = self.assignment.sha256(self.known, self.mask)
        return {"kind": "projection", "sha256": digest, "parity": self.original}

    def bind(self, run: RunContext) -> BoundProjection:
        """Return the projection for the loop of ``run``.

        Raises:
            ValueError: ``known`` does not fit the model's images or their range, the run has too many rows, or
                ``original`` does not support the solver.
        """
        return BoundProjection(self, run)


class BoundProjection(BoundItems):
    """A `Projection` in the loop of one sampler; see `scoresde_fast.loop.condition.StateCondition`.

    Its data is (known, mask), (B, C', H', W') each; known means are in the range of the model's data.
    """

    def __init__(self, condition: Projection, run: RunContext) -> None:
        model, known, mask = run.model, condition.known, condition.mask
        block = block_shape(model.image_shape, tuple(known.shape[1:]))
        if block is None:
            raise ValueError(
                f"known has shape {tuple(known.shape[1:])}, but the model's images have {model.image_shape}: give that "
                "shape, (1, H, W) for gray, or (C, H/k, W/k) for averages over k x k pixels"
            )
        if model.is_image and not (known.min() >= 0 and known.max() <= 1):
            raise ValueError(
                f"known has values from {known.min():.4g} to {known.max():.4g}; images have values in [0, 1]: rescale"
            )
        if len(run.table.rows) >= DRAWS:
            raise ValueError(
                f"a run with a condition may have at most {DRAWS - 1} rows, but this one has {len(run.table.rows)}: "
                "use fewer steps"
            )
        known = torch.where(mask, model.from_images(known), 0.0).to(run.device)
        super().__init__(condition.assignment, known, mask.to(run.device))
        if condition.original:
            coefficients = original_coefficients(run)
            self._clears_channel, self._projects_start = _original_start(run, block)
        else:
            coefficients, self._clears_channel, self._projects_start = projection_coefficients(run), False, True
        # Unit noise in orthonormal coordinates has the standard deviation 1 / sqrt(block size) in the block means.
        coefficients[:, [LEVELS.noise, LEVELS.velocity_noise_x, LEVELS.velocity_noise_v]] /= math.sqrt(math.prod(block))
        control = torch.zeros(len(coefficients), len(CONTROL), dtype=torch.int64, device="cpu")
        # Draws are at least 2^31; the table stores each as the int32 with the same bits.
        control[:, CONTROL.draw] = run.first_draw - 2**32 + torch.arange(len(coefficients), device="cpu")
        # Row 0 is for the prior sample, row i + 1 for the state after row i of the run.
        self._table = DeviceTable(
            torch.from_numpy(coefficients).to(run.device, torch.float32), control.to(run.device, torch.int32)
        )
        self._project = partial(
            project, pairs=model.sde.parts == 2, implementation=operation.choose(run.device, run.backend)
        )

    def start(self, state: Tensor, data: Data, sample_ids: Tensor, *, run_seed: int) -> None:
        """Replace the known part of the prior sample."""
        known, mask = data
        if self._clears_channel:  # and adds the known gray to all channels
            state[:, :1] = 0
            state += torch.where(mask, known, 0.0)
        if self._projects_start:
            self._project(state, known, mask, sample_ids, self._table, 0, run_seed=run_seed)

    def after_row(self, state: Tensor, data: Data, sample_ids: Tensor, counter: Tensor, *, run_seed: int) -> None:
        """Replace the known part of the state after row ``counter``."""
        known, mask = data
        self._project(state, known, mask, sample_ids, self._table, 1, counter=counter, run_seed=run_seed)


def marginal_coefficients(sde: SDE, times: Array) -> Array:
    """Return the coefficients (n, 5), with the columns `LevelColumns`, that sample p(x_t | x_0) at ``times`` (n,).

    On CLD they sample p(x_t, v_t | x_0), with the initial velocity N(0, gamma M) integrated out (Dockhorn et al. 2022,
    appendix).
    """
    coefficients = np.zeros((len(times), LEVEL_WIDTH))
    if isinstance(sde, CLDSDE):
        hsm_sde = replace(sde, objective="hsm")  # the marginals of "hsm" have the initial velocity integrated out
        mean, factor = hsm_sde.marginal(times).mean, hsm_sde.cholesky(times)
        coefficients[:, LEVELS.scale], coefficients[:, LEVELS.velocity_scale] = mean[:, 0, 0], mean[:, 1, 0]
        coefficients[:, LEVELS.noise] = factor[:, 0, 0]
        coefficients[:, LEVELS.velocity_noise_x] = factor[:, 1, 0]
        coefficients[:, LEVELS.velocity_noise_v] = factor[:, 1, 1]
        return coefficients
    assert isinstance(sde, ScalarSDE)
    coefficients[:, LEVELS.scale], coefficients[:, LEVELS.noise] = sde.marginal(times)
    return coefficients


def projection_coefficients(run: RunContext) -> Array:
    """Return the projection coefficients (rows + 1, 5): for the prior sample, then for the state after each row.

    After each row the known pixels have the noise of the next row's start time.  After the last row they are noise-free
    with denoising, and have the noise of eps without.
    """
    sde, options = run.model.sde, run.options
    end = np.array([end_time(sde, options)])
    last = _noise_free_coefficients(sde) if options.denoise else marginal_coefficients(sde, end)
    return np.concatenate([marginal_coefficients(sde, run.table.times), last])


def original_coefficients(run: RunContext) -> Array:
    """Return the projection coefficients (rows + 1, 5) of the official code.

    That code projects after a predictor step with the time at the start of that step.  It also projects before each
    predictor step, at the step's time, even without a corrector.  The last projection uses the mean at the last time.

    Raises:
        ValueError: the official code does not support the solver or denoising.
    """
    sde, options = run.model.sde, run.options
    solver = find_solver(options.predictor, sde, probability_flow=options.probability_flow)
    if not (solver.published and isinstance(sde, ScalarSDE)):
        raise ValueError(
            f"original=True reproduces the official code, which has no solver {options.solver!r} for the SDE "
            f"{sde.name!r}; leave out original=True, or choose 'pc', 'euler_maruyama', 'reverse_diffusion' or "
            "'ancestral'"
        )
    if options.denoise:
        raise ValueError(
            "original=True keeps the noise of the last step at unknown pixels, as the official code does; "
            "choose denoise=False with it"
        )
    marginals = marginal_coefficients(sde, run.table.times)
    last = np.zeros((1, LEVEL_WIDTH))
    last[0, LEVELS.scale] = marginals[-1, LEVELS.scale]
    if _has_corrector(run):
        return np.concatenate([_noise_free_coefficients(sde), marginals[:-1], last])
    return np.concatenate([marginals, last])


def _noise_free_coefficients(sde: SDE) -> Array:
    """Return the coefficients (1, 5) of the known data itself; on CLD with a velocity N(0, gamma M)."""
    coefficients = np.zeros((1, LEVEL_WIDTH))
    coefficients[0, LEVELS.scale] = 1
    if isinstance(sde, CLDSDE):
        coefficients[0, LEVELS.velocity_noise_v] = math.sqrt(sde.gamma * sde.mass)
    return coefficients


def _original_start(run: RunContext, block: tuple[int, ...]) -> tuple[bool, bool]:
    """Return whether the official code clears a channel of the prior, and whether it projects the prior sample.

    Raises:
        ValueError: the official code does not support blocks of that shape.
    """
    gray = block == (run.model.image_shape[0], 1, 1)
    if not gray and block != (1, 1, 1):
        raise ValueError(
            f"original=True supports inpainting and colorization only, not averages over blocks {block}; leave it out"
        )
    clears_channel = gray and block[0] > 1
    return clears_channel, not (clears_channel and _has_corrector(run))


def _has_corrector(run: RunContext) -> bool:
    return run.options.paired_corrector != "none"
