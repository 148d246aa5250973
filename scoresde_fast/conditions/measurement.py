# SPDX-License-Identifier: Apache-2.0
"""A measurement y = A x(0) + noise as a condition: what `DPS` and `PiGDM` have in common.

Both look at the residual y - A x0_hat, where x0_hat = E[x(0) | x(t)] is Tweedie's formula, and go back through the
network to the state.  On CLD the state is the pair, and the score that of the velocity.  Of images x0_hat is taken into
their range before it is compared, as both papers' programs do.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.conditions.operators import LinearOperator, Mask, operator_of, parameters_of, require_adjoint
from scoresde_fast.conditions.operators.text import Operator
from scoresde_fast.conditions.seeds import SeedAssignment
from scoresde_fast.loop.condition import Data, RunContext, row_table
from scoresde_fast.noise import Noise

DRAW = 2**32 - 1
"""The draw of simulated noise, the last one: what a run draws, its conditions included, comes before."""


class Measurement:
    """What both have in common: measurements, and the seeds that they belong to."""

    kind: ClassVar[str]

    def __init__(
        self, operator: LinearOperator, measured: Tensor, *, scale: float, seeds: Sequence[int] | None
    ) -> None:
        measured = torch.as_tensor(measured)  # NumPy's arrays are welcome
        if measured.ndim < 2 or not measured.is_floating_point() or not len(measured):
            raise ValueError(
                f"measured has shape {tuple(measured.shape)} and dtype {str(measured.dtype).removeprefix('torch.')}; "
                "it must be (K, ...), K measurements as the operator makes them, in floating-point numbers"
            )
        measured = measured.detach().float()
        if (parameters := parameters_of(operator)) and len(parameters[0]) != len(measured):
            raise ValueError(
                f"the operator is that of {len(parameters[0])} measurements, and there are {len(measured)}; give it as "
                "many parameters, or one for all"
            )
        if isinstance(operator, Mask):  # what was given for unknown pixels is nothing
            measured = operator.apply(measured)
        if not measured.isfinite().all():
            raise ValueError("measured has NaN or infinity; what is unknown is to be left out by the operator")
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale is {scale}; it must be a finite number greater than 0")
        self.operator, self.scale, self.measured = operator, scale, measured
        self.seeds = None if seeds is None else list(seeds)
        self._assignment = SeedAssignment.of(self.seeds, len(measured), "measurement")

    def require_seeds(self, seeds: Sequence[int]) -> None:
        """Raises ``ValueError`` unless a measurement belongs to every seed."""
        self._assignment.require(seeds)

    def describe(self) -> dict[str, Any]:
        """Everything of it that decides the pixels, as plain values."""
        digest = hashlib.sha256(repr((tuple(self.measured.shape), self.seeds)).encode())
        digest.update(self.measured.cpu().numpy().tobytes())
        described = getattr(self.operator, "describe", None)
        return {
            "kind": self.kind,
            "operator": type(self.operator).__name__ if described is None else described(),
            "measured_sha256": digest.hexdigest(),
            "scale": self.scale,
        }

    def _measured_for(self, run: RunContext) -> Tensor:
        """The measurements of the model's own data, which images in [0, 1] are an affine map of.

        Raises:
            ValueError: the operator is none, or does not fit the images or the measurements.
        """
        model, parameters = run.model, parameters_of(self.operator)
        one = operator_of(self.operator, [rows[:1].to(run.device) for rows in parameters])
        require_adjoint(one, model.image_shape, run.device)
        # A is linear: A (2 x - 1) = 2 A x - A 1.
        black = torch.zeros(len(self.measured) if parameters else 1, *model.image_shape, device=run.device)
        of_black = self.operator.apply(model.from_images(black))
        if self.measured.shape[1:] != of_black.shape[1:]:
            raise ValueError(
                f"measured has shape {tuple(self.measured.shape)}; of this model's images, {model.image_shape}, the "
                f"operator makes (K, {', '.join(map(str, of_black.shape[1:]))})"
            )
        return span_of(run) * self.measured.to(run.device) + of_black

    def bound_attributes(self, run: RunContext) -> dict[str, Any]:
        """The attributes of `BoundMeasurement`; the errors are those of `_measured_for`."""
        return {
            "operator": self.operator,
            "scale": self.scale,
            "measured": self._measured_for(run),
            "parameters": tuple(rows.to(run.device) for rows in parameters_of(self.operator)),
            "assignment": self._assignment,
            "recovery": recovery(run),
            "ends": ends_of(run) if run.model.is_image else None,
        }


def ends_of(run: RunContext) -> tuple[float, float]:
    """What black and white are in the range of the model's data."""
    black, white = run.model.from_images(torch.tensor([0.0, 1.0])).tolist()
    return black, white


def span_of(run: RunContext) -> float:
    """How much longer the range of the model's data is than that of images."""
    black, white = ends_of(run)
    return white - black


@dataclass(frozen=True, eq=False)
class BoundMeasurement:
    """A measurement in the loop of one sampler; see `scoresde_fast.loop.condition.GuidanceCondition`.

    Attributes:
        operator, scale: as the user gave them.
        measured: (K, ...), of data in the range of the model's.
        parameters: (K, ...) each, of an operator that is another for each measurement.
        assignment: which of the K belongs to a seed.
        recovery: (rows, parts + 1), the estimate of x(0) from the parts of the state and the network's output.
        ends: what images are within; None of points.
    """

    operator: LinearOperator
    scale: float
    measured: Tensor
    parameters: tuple[Tensor, ...]
    assignment: SeedAssignment
    recovery: Tensor
    ends: tuple[float, float] | None
    through_network: ClassVar[bool] = True

    def data(self, sample_ids: Tensor) -> Data:
        """(measured, the operator's parameters if it has any), (B, ...) each."""
        places = self.assignment.places(sample_ids)
        return (self.measured[places], *(rows[places] for rows in self.parameters))

    def empty_data(self, batch: int) -> Data:
        """The same, of nothing."""
        return tuple(rows.new_zeros(batch, *rows.shape[1:]) for rows in (self.measured, *self.parameters))

    def denoised(self, x: Tensor, output: Tensor, counter: Tensor) -> Tensor:
        """E[x(0) | x(t)], (B, C, H, W)."""
        *of_parts, of_output = self.recovery.index_select(0, counter)[0].unbind()
        parts = x.chunk(len(of_parts), dim=1)
        estimate = of_output * output
        for factor, part in zip(of_parts, parts, strict=True):
            estimate = estimate + factor * part
        return estimate

    def residual(self, estimate: Tensor, data: Data) -> Tensor:
        """y - A x0_hat, like y."""
        return data[0] - self.operator_for(data).apply(estimate if self.ends is None else estimate.clamp(*self.ends))

    def operator_for(self, data: Data) -> LinearOperator:
        """That of the batch."""
        return operator_of(self.operator, data[1:])


def recovery(run: RunContext) -> Tensor:
    """(rows, parts + 1): x0_hat from the parts of the state and the network's output, which the score is made of.

    Raises:
        ValueError: on CLD, where x(0) cannot be told from the velocity's score; see `CLDSDE.joint_score`.
    """
    times, parametrisation = run.table.times, run.model.parametrisation
    state, score = run.model.sde.denoised(times)
    coefficients = np.concatenate([state, (score * parametrisation.output_scale(times))[:, None]], axis=1)
    coefficients[:, -2] += score * parametrisation.state_scale(times)
    return row_table(coefficients, run.device)


def measure(operator: Operator, images: Tensor, noise: float, *, seeds: Sequence[int], run_seed: int) -> Tensor:
    """A x + noise z of images (N, C, H, W), where z is the normals of their seeds: (N, ...)."""
    seen = operator.apply(images)
    normals = Noise(run_seed, torch.tensor(list(seeds), dtype=torch.int64)).normal(DRAW, tuple(seen.shape[1:]))
    return seen + noise * normals


def known_pixels(operator: Operator, image_shape: Sequence[int]) -> Tensor:
    """Where the measurement of an image (C, H, W) has a value, (1, C, H, W) bool."""
    ones = torch.ones(1, *image_shape)
    return operator.apply(ones) > 0 if isinstance(operator, Mask) else ones > 0


def enlarged(measured: Tensor, image_shape: Sequence[int]) -> Tensor:
    """What was measured, (N, C', H', W'), as images (N, C, H, W) in [0, 1] of the shape of what it was measured of."""
    channels, height, width = image_shape
    large = measured.repeat_interleave(height // measured.shape[2], dim=2)
    large = large.repeat_interleave(width // measured.shape[3], dim=3)
    return large.expand(-1, channels, -1, -1).clamp(0, 1)
