# SPDX-License-Identifier: Apache-2.0
"""Guidance by a measurement y = A x(0) + noise, through the network's own estimate of x(0).

Both methods look at the residual y - A x0_hat, where x0_hat = E[x(0) | x(t)] is Tweedie's formula, and go back through
the network to the state:

    DPS      x <- x - scale grad ||y - A x0_hat||, after every row       (Chung et al. 2023, algorithm 1)
    PiGDM    score + scale (d x0_hat / d x)^T A^T (r^2 A A^T + noise^2 I)^-1 (y - A x0_hat)       (Song et al. 2023)

r(t)^2 is the variance of x(0) given x(t), were the data N(0, data_std^2 I): with data of that variance PiGDM is exact.
On CLD the state is the pair, and the score that of the velocity.

Of images x0_hat is taken into their range before it is compared, as both papers' programs do.  Where the noise is large
d x0_hat / d x is a network's small derivative times a large number, and mostly error; but a measurement cannot change
what is expected of x(0) by much more than the data is spread.  So PiGDM's guidance is shortened to what does no more.
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

from scoresde_fast.condition import Data, Run, row_table
from scoresde_fast.conditional.of_seeds import OfSeeds
from scoresde_fast.conditional.operators import (
    LinearOperator,
    Mask,
    operator_of,
    parameters_of,
    require_adjoint,
    ridge_inverse,
)
from scoresde_fast.sdes import observation, tweedie

TINY = 1e-12
"""Below this a residual has no direction."""
SPREAD = 2.0
"""How many deviations of the data guidance may move x0_hat, in root mean square."""


class _Measurement:
    """What both have in common: measurements, and the seeds that they belong to."""

    kind: ClassVar[str]

    def __init__(
        self, operator: LinearOperator, measured: Tensor, *, scale: float, seeds: Sequence[int] | None
    ) -> None:
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
        self._of_seeds = OfSeeds.of(self.seeds, len(measured), "measurement")

    def require_seeds(self, seeds: Sequence[int]) -> None:
        """Raises ``ValueError`` unless a measurement belongs to every seed."""
        self._of_seeds.require(seeds)

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

    def _measured_for(self, run: Run) -> Tensor:
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
        return _span(run) * self.measured.to(run.device) + of_black

    def _bound(self, run: Run) -> dict[str, Any]:
        """The attributes of `_BoundMeasurement`; the errors are those of `_measured_for`."""
        return {
            "operator": self.operator,
            "scale": self.scale,
            "measured": self._measured_for(run),
            "parameters": tuple(rows.to(run.device) for rows in parameters_of(self.operator)),
            "of_seeds": self._of_seeds,
            "recovery": recovery(run),
            "ends": _ends(run) if run.model.is_image else None,
        }


def _ends(run: Run) -> tuple[float, float]:
    """What black and white are in the range of the model's data."""
    black, white = run.model.from_images(torch.tensor([0.0, 1.0])).tolist()
    return black, white


def _span(run: Run) -> float:
    """How much longer the range of the model's data is than that of images."""
    black, white = _ends(run)
    return white - black


@dataclass(frozen=True, eq=False)
class _BoundMeasurement:
    """A measurement in the loop of one sampler; see `scoresde_fast.condition.Guiding`.

    Attributes:
        operator, scale: as the user gave them.
        measured: (K, ...), of data in the range of the model's.
        parameters: (K, ...) each, of an operator that is another for each measurement.
        of_seeds: which of the K belongs to a seed.
        recovery: (rows, parts + 1), the estimate of x(0) from the parts of the state and the network's output.
        ends: what images are within; None of points.
    """

    operator: LinearOperator
    scale: float
    measured: Tensor
    parameters: tuple[Tensor, ...]
    of_seeds: OfSeeds
    recovery: Tensor
    ends: tuple[float, float] | None
    through_network: ClassVar[bool] = True

    def data(self, sample_ids: Tensor) -> Data:
        """(measured, the operator's parameters if it has any), (B, ...) each."""
        places = self.of_seeds.places(sample_ids)
        return (self.measured[places], *(rows[places] for rows in self.parameters))

    def empty_data(self, batch: int) -> Data:
        """The same, of nothing."""
        return tuple(rows.new_zeros(batch, *rows.shape[1:]) for rows in (self.measured, *self.parameters))

    def _denoised(self, x: Tensor, output: Tensor, counter: Tensor) -> Tensor:
        """E[x(0) | x(t)], (B, C, H, W)."""
        *of_parts, of_output = self.recovery.index_select(0, counter)[0].unbind()
        parts = x.chunk(len(of_parts), dim=1)
        estimate = of_output * output
        for factor, part in zip(of_parts, parts, strict=True):
            estimate = estimate + factor * part
        return estimate

    def _residual(self, estimate: Tensor, data: Data) -> Tensor:
        """y - A x0_hat, like y."""
        return data[0] - self._operator(data).apply(estimate if self.ends is None else estimate.clamp(*self.ends))

    def _operator(self, data: Data) -> LinearOperator:
        """That of the batch."""
        return operator_of(self.operator, data[1:])


class DPS(_Measurement):
    """Diffusion posterior sampling (Chung et al. 2023): after each row a step down the residual's norm.

    Args:
        operator: A; see `scoresde_fast.conditional.operators`.
        measured: (K, ...), A of images in [0, 1], or of points.
        scale: the length of a step where the residual's gradient is 1, in the range of the model's data; 0.3 to 1 with
            1000 steps are usual, and more with fewer.
        seeds: the seeds that belong to the K measurements, as many to each, those of the first first; None where K is
            1: all seeds do.

    Raises:
        ValueError: a number is not finite or out of range, or there are not as many seeds as measurements.
    """

    kind = "dps"

    def __init__(
        self, operator: LinearOperator, measured: Tensor, *, scale: float = 1.0, seeds: Sequence[int] | None = None
    ) -> None:
        super().__init__(operator, measured, scale=scale, seeds=seeds)

    def bind(self, run: Run) -> BoundDPS:
        """The guidance in the loop of ``run``.

        Raises:
            ValueError: the operator is none, or does not fit the images or the measurements.
        """
        return BoundDPS(**self._bound(run))


@dataclass(frozen=True, eq=False)
class BoundDPS(_BoundMeasurement):
    """`DPS` in the loop of one sampler."""

    pushes: ClassVar[bool] = True

    def log_likelihood(self, x: Tensor, output: Tensor, data: Data, counter: Tensor) -> Tensor:
        """-scale ||y - A x0_hat||, (B,)."""
        residual = self._residual(self._denoised(x, output, counter), data).flatten(1)
        # The norm is not differentiable at 0: its gradient is written out, and is 0 there.
        direction = residual.detach() / residual.detach().norm(dim=1, keepdim=True).clamp_min(TINY)
        return -self.scale * (direction * residual).sum(1)

    def bounded(self, gradient: Tensor, counter: Tensor) -> Tensor:
        """As it is."""
        return gradient


class PiGDM(_Measurement):
    """Pseudo-inverse guidance (Song, Vahdat, Mardani, Kautz 2023): the score of y, were x(0) Gaussian given x(t).

    Args:
        operator: A; see `scoresde_fast.conditional.operators`.
        measured: (K, ...), A of images in [0, 1], or of points, plus noise.
        noise: the deviation of that noise, in the units of ``measured``.
        scale: of the guidance; 1 is what the data would have it.
        data_std: the deviation of the data's pixels about 0, in the range of the model's; None: 1 of models whose data
            is in [-1, 1] and of points, as published, and 0.5 of those in [0, 1].
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
            raise ValueError(f"noise is {noise}; it must be a finite number, 0 or greater")
        if data_std is not None and not (data_std > 0 and math.isfinite(data_std)):
            raise ValueError(f"data_std is {data_std}; it must be a finite number greater than 0")
        self.noise, self.data_std = noise, data_std

    def describe(self) -> dict[str, Any]:
        """Everything of it that decides the pixels, as plain values."""
        return {**super().describe(), "noise": self.noise, "data_std": self.data_std}

    def bind(self, run: Run) -> BoundPiGDM:
        """The guidance in the loop of ``run``.

        Raises:
            ValueError: the operator is none, or does not fit the images or the measurements.
        """
        model = run.model
        data_std = self.data_std or (1.0 if model.centered or not model.is_image else 0.5)
        std = observation(model.sde, run.table.times).std
        variance, noise = 1 / (1 / data_std**2 + 1 / std**2), self.noise * _span(run)
        weights = np.stack([noise**2 / variance, self.scale / variance], axis=1)
        moves = np.abs(tweedie(model.sde, run.table.times)[1]) / (SPREAD * data_std)
        return BoundPiGDM(
            **self._bound(run), weights=row_table(weights, run.device), moves=row_table(moves, run.device)
        )


@dataclass(frozen=True, eq=False)
class BoundPiGDM(_BoundMeasurement):
    """`PiGDM` in the loop of one sampler.

    Attributes:
        weights: (rows, 2), noise^2 / r^2 and scale / r^2.
        moves: (rows,), how far a score of 1 moves x0_hat, over the most that it may.
    """

    weights: Tensor
    moves: Tensor
    pushes: ClassVar[bool] = False

    def log_likelihood(self, x: Tensor, output: Tensor, data: Data, counter: Tensor) -> Tensor:
        """Something whose gradient is PiGDM's guidance, (B,)."""
        ridge, weight = self.weights.index_select(0, counter)[0].unbind()
        estimate = self._denoised(x, output, counter)
        with torch.no_grad():
            inverse = ridge_inverse(self._operator(data), self._residual(estimate, data), ridge)
            direction = weight * inverse
        return (direction * estimate).flatten(1).sum(1)

    def bounded(self, gradient: Tensor, counter: Tensor) -> Tensor:
        """So short that it moves x0_hat by no more than `SPREAD` deviations of the data."""
        of_score = gradient.chunk(self.recovery.shape[1] - 1, dim=1)[-1]
        moves = self.moves.index_select(0, counter) * of_score.flatten(1).square().mean(1).sqrt()
        return gradient * (1 / moves.clamp_min(1)).view(-1, *[1] * (gradient.ndim - 1))


def recovery(run: Run) -> Tensor:
    """(rows, parts + 1): x0_hat from the parts of the state and the network's output, which the score is made of.

    Raises:
        ValueError: on CLD, where x(0) cannot be told from the velocity's score; see `CLDSDE.denoised`.
    """
    times, parametrisation = run.table.times, run.model.parametrisation
    state, score = tweedie(run.model.sde, times)
    coefficients = np.concatenate([state, (score * parametrisation.output_scale(times))[:, None]], axis=1)
    coefficients[:, -2] += score * parametrisation.state_scale(times)
    return row_table(coefficients, run.device)
