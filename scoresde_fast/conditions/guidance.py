# SPDX-License-Identifier: Apache-2.0
"""Guidance by a measurement y = A x(0) + noise: DPS and PiGDM.

Both reduce the residual y - A x0_hat, by gradients through the network with respect to the state.  Tweedie's formula
gives x0_hat = E[x(0) | x(t)].  On CLD the state is the pair of position and velocity, and the score is that of the
velocity.  The residual of images clamps x0_hat to the model's range, as in the official code of both papers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.conditions.operators import (
    LinearOperator,
    Mask,
    operator_for_batch,
    parameters_of,
    require_adjoint,
    ridge_inverse,
)
from scoresde_fast.data.arrays import ArrayLike, as_unit_images
from scoresde_fast.errors import require_positive
from scoresde_fast.loop.condition import Data, RunContext, row_table
from scoresde_fast.loop.seeds import BoundItems, SeedAssignment, SeededCondition
from scoresde_fast.noise import Noise

SIMULATION_DRAW = 2**32 - 1
"""The index of the draw of simulated measurement noise: the last index, beyond those of a run and its conditions."""
MIN_NORM = 1e-12
"""Lower bound on the norm by which DPS divides a residual, which may be 0."""
MAX_MOVE = 2.0
"""The largest root-mean-square change of x0_hat by PiGDM, in standard deviations of the data."""


class MeasurementGuidance(SeededCondition):
    """Measurements and their seeds: the base of `DPS` and `PiGDM`."""

    kind: ClassVar[str]

    def __init__(
        self, operator: LinearOperator, measured: ArrayLike, *, scale: float = 1.0, seeds: Sequence[int] | None = None
    ) -> None:
        measured = as_unit_images(measured)
        if measured.ndim < 2 or not measured.is_floating_point() or not len(measured):
            raise ValueError(
                f"measured has shape {tuple(measured.shape)} and dtype {str(measured.dtype).removeprefix('torch.')}; "
                "it must be (K, ...) floating-point numbers: K outputs of the operator"
            )
        measured = measured.detach().float()
        if (parameters := parameters_of(operator)) and len(parameters[0]) != len(measured):
            raise ValueError(
                f"the operator has parameters for {len(parameters[0])} measurements, but there are {len(measured)}; "
                "give one set of parameters for each measurement, or one for all"
            )
        if isinstance(operator, Mask):  # unknown pixels may have any value
            measured = operator.apply(measured)
        if not measured.isfinite().all():
            raise ValueError("measured contains NaN or infinity; exclude unknown values with the operator")
        require_positive("scale", scale)
        self.operator, self.scale, self.measured = operator, scale, measured
        self.assignment = SeedAssignment(len(measured), "measurement", seeds)

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""
        describe = getattr(self.operator, "describe", None)
        return {
            "kind": self.kind,
            "operator": type(self.operator).__name__ if describe is None else describe(),
            "measured_sha256": self.assignment.sha256(self.measured),
            "scale": self.scale,
        }


class BoundMeasurement(BoundItems):
    """A `MeasurementGuidance` in the loop of one sampler; see `scoresde_fast.loop.condition.GuidanceCondition`.

    Its data is (measured, *parameters), each (B, ...); an operator shared by all measurements has no parameters.

    Raises:
        ValueError: the operator fails `require_adjoint`, it does not fit the images or the measurements, or the model
            is a CLD model that returns only the velocity's score (see `CLDSDE.joint_score`).
    """

    through_network: ClassVar[bool] = True
    pushes: ClassVar[bool] = False

    def __init__(self, condition: MeasurementGuidance, run: RunContext) -> None:
        model, device = run.model, run.device
        self.operator, self.scale = condition.operator, condition.scale
        parameters = [parameter.to(device) for parameter in parameters_of(self.operator)]
        first_operator = operator_for_batch(self.operator, [parameter[:1] for parameter in parameters])
        require_adjoint(first_operator, model.image_shape, device)
        # Convert measurements of images in [0, 1] to the model's range: A (2 x - 1) = 2 A x + A (-1), as A is linear.
        black = torch.zeros(
            len(condition.measured) if parameters else 1, *model.image_shape, dtype=torch.float32, device=device
        )
        measured_black = self.operator.apply(model.from_images(black))
        if condition.measured.shape[1:] != measured_black.shape[1:]:
            raise ValueError(
                f"measured has shape {tuple(condition.measured.shape)}; for this model's images, {model.image_shape}, "
                f"the operator returns (K, {', '.join(map(str, measured_black.shape[1:]))})"
            )
        low, high = model.from_images(torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")).tolist()
        self.span = high - low
        self.range = (low, high) if model.is_image else None
        measured = self.span * condition.measured.to(device) + measured_black
        super().__init__(condition.assignment, measured, *parameters)
        self._estimate = row_table(model.denoising_factors(run.table.times), device)

    def denoised(self, x: Tensor, output: Tensor, counter: Tensor) -> Tensor:
        """Return x0_hat = E[x(0) | x(t)], (B, C, H, W)."""
        *part_factors, output_factor = self._estimate.index_select(0, counter)[0].unbind()
        estimate = output_factor * output
        for factor, part in zip(part_factors, x.chunk(len(part_factors), dim=1), strict=True):
            estimate = estimate + factor * part
        return estimate

    def residual(self, estimate: Tensor, data: Data) -> Tensor:
        """Return y - A x0_hat, shaped like y."""
        if self.range is not None:
            estimate = estimate.clamp(*self.range)
        return data[0] - self.operator_for(data).apply(estimate)

    def operator_for(self, data: Data) -> LinearOperator:
        """Return the operator of the batch."""
        return operator_for_batch(self.operator, data[1:])

    def limit_gradient(self, gradient: Tensor, counter: Tensor) -> Tensor:
        """Return the gradient unchanged."""
        return gradient


class DPS(MeasurementGuidance):
    """Diffusion posterior sampling (Chung et al. 2023, algorithm 1).

    After every row with an evaluation, x <- x - scale grad ||y - A x0_hat||.

    Args:
        operator: A; see `scoresde_fast.conditions.operators`.
        measured: (K, ...), A applied to images in [0, 1] or to points.
        scale: factor of the gradient, for data in the model's range: 0.3 to 1 with 1000 steps, larger with fewer steps.
        seeds: seeds assigned to the K measurements in equal consecutive blocks; None for a single measurement, which is
            used for every seed.

    Raises:
        ValueError: a value is not finite or out of range, or the seeds do not divide among the measurements.
    """

    kind = "dps"

    def bind(self, run: RunContext) -> BoundDPS:
        """Return the guidance for the loop of ``run``; raises as `BoundMeasurement`."""
        return BoundDPS(self, run)


class BoundDPS(BoundMeasurement):
    """`DPS` in the loop of one sampler."""

    pushes = True

    def log_likelihood(self, x: Tensor, output: Tensor, data: Data, counter: Tensor) -> Tensor:
        """Return -scale ||y - A x0_hat||, (B,)."""
        residual = self.residual(self.denoised(x, output, counter), data).flatten(1)
        # The norm is not differentiable at 0; in this form its gradient there is 0.
        direction = residual.detach() / residual.detach().norm(dim=1, keepdim=True).clamp_min(MIN_NORM)
        return -self.scale * (direction * residual).sum(1)


class PiGDM(MeasurementGuidance):
    """Pseudo-inverse guidance (Song, Vahdat, Mardani, Kautz 2023), which approximates p(x(0) | x(t)) by a Gaussian.

        score + scale (d x0_hat / d x)^T A^T (r^2 A A^T + noise^2 I)^-1 (y - A x0_hat)

    r(t)^2 is the variance of x(0) given x(t) for data N(0, data_std^2 I), for which the guidance is exact.  At large
    noise, d x0_hat / d x is mostly error: a small derivative of the network times a large factor.  Guidance that
    moves x0_hat by more than `MAX_MOVE` is therefore shortened to `MAX_MOVE`.

    Args:
        operator: A; see `scoresde_fast.conditions.operators`.
        measured: (K, ...), A applied to images in [0, 1] or to points, plus noise.
        noise: the standard deviation of the noise in ``measured``.
        scale: factor of the guidance; 1 follows the equation.
        data_std: the root mean square of the pixels, in the range of the model's data; None: 1 for data in [-1, 1] and
            for points, as published, and 0.5 for data in [0, 1].
        seeds: as in `DPS`.

    Raises:
        ValueError: as `DPS`.
    """

    kind = "pigdm"

    def __init__(
        self,
        operator: LinearOperator,
        measured: Tensor,
        *,
        noise: float = 0.0,
        scale: float = 1.0,
        data_std: float | None = None,
        seeds: Sequence[int] | None = None,
    ) -> None:
        super().__init__(operator, measured, scale=scale, seeds=seeds)
        if not (noise >= 0 and math.isfinite(noise)):
            raise ValueError(f"noise is {noise}; it must be a finite number of at least 0")
        if data_std is not None:
            require_positive("data_std", data_std)
        self.noise, self.data_std = noise, data_std

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""
        return {**super().describe(), "noise": self.noise, "data_std": self.data_std}

    def bind(self, run: RunContext) -> BoundPiGDM:
        """Return the guidance for the loop of ``run``; raises as `BoundMeasurement`."""
        return BoundPiGDM(self, run)


class BoundPiGDM(BoundMeasurement):
    """`PiGDM` in the loop of one sampler."""

    def __init__(self, condition: PiGDM, run: RunContext) -> None:
        super().__init__(condition, run)
        model, times = run.model, run.table.times
        data_std = condition.data_std or model.span / 2
        variance = 1 / (1 / data_std**2 + 1 / model.sde.observation(times).std ** 2)  # r^2
        noise = condition.noise * self.span
        self._ridge_and_weight = row_table(np.stack([noise**2 / variance, self.scale / variance], axis=1), run.device)
        # The change of x0_hat by a score of 1, relative to the largest change allowed.
        self._move = row_table(np.abs(model.sde.denoised(times).score) / (MAX_MOVE * data_std), run.device)
        self._parts = model.sde.parts

    def log_likelihood(self, x: Tensor, output: Tensor, data: Data, counter: Tensor) -> Tensor:
        """Return a function (B,) of the state that has the guidance as its gradient."""
        ridge, weight = self._ridge_and_weight.index_select(0, counter)[0].unbind()
        estimate = self.denoised(x, output, counter)
        with torch.no_grad():
            direction = weight * ridge_inverse(self.operator_for(data), self.residual(estimate, data), ridge)
        return (direction * estimate).flatten(1).sum(1)

    def limit_gradient(self, gradient: Tensor, counter: Tensor) -> Tensor:
        """Return the gradient, shortened where it moves x0_hat by more than `MAX_MOVE`."""
        score_change = gradient.chunk(self._parts, dim=1)[-1]
        moves = self._move.index_select(0, counter) * score_change.flatten(1).square().mean(1).sqrt()
        return gradient * (1 / moves.clamp_min(1)).view(-1, *[1] * (gradient.ndim - 1))


def simulate(operator: LinearOperator, images: Tensor, noise: float, *, seeds: Sequence[int], run_seed: int) -> Tensor:
    """Return A x + noise z (N, ...) for images (N, C, H, W), with standard normal z from the seeds."""
    measured = operator.apply(images)
    generator = Noise(run_seed, torch.tensor(list(seeds), dtype=torch.int64, device="cpu"))
    return measured + noise * generator.normal(SIMULATION_DRAW, tuple(measured.shape[1:]))


def known_pixels(operator: LinearOperator, image_shape: Sequence[int]) -> Tensor:
    """Return the mask (1, C, H, W) of measured pixels; all are True unless the operator is a `Mask`."""
    ones = torch.ones(1, *image_shape, dtype=torch.float32, device="cpu")
    return operator.apply(ones) > 0 if isinstance(operator, Mask) else ones > 0


def enlarged(measured: Tensor, image_shape: Sequence[int]) -> Tensor:
    """Return measurements (N, C', H', W') as images (N, C, H, W) in [0, 1], by repeating pixels and channels."""
    channels, height, width = image_shape
    images = measured.repeat_interleave(height // measured.shape[2], dim=2)
    images = images.repeat_interleave(width // measured.shape[3], dim=3)
    return images.expand(-1, channels, -1, -1).clamp(0, 1)
