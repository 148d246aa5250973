# SPDX-License-Identifier: Apache-2.0
"""Likelihoods by the probability flow's change of variables (Song et al. 2021, section 4.3 and appendix D.2).

    log p(x(0)) = log p_T(x(T)) + integral of div f(x(t), t) dt        along the flow f from the data to the prior

On CLD this is the joint log density of position and velocity; adding the entropy of the velocity gives a lower bound on
the log density of the position (Dockhorn et al. 2022, appendix).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.data.arrays import ArrayLike, as_tensor
from scoresde_fast.flow.codes import data_states, require_unit_range, sample_ids, with_batch, with_inputs
from scoresde_fast.flow.options import FlowOptions, ProbeKind, Probes
from scoresde_fast.flow.probability_flow import ProbabilityFlow
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.rng import uniforms
from scoresde_fast.run_options import accepting_options
from scoresde_fast.sdes import CLDSDE

PIXEL_VALUES = 256
"""The number of 8-bit pixel values."""
NEGLIGIBLE = 1e-3
"""Estimated error of fixed steps, in bits per dimension, up to which there is no warning."""
DEQUANTIZATION_DRAW = 0
"""The draw of the uniform noise; draw 1 is for CLD's velocity, later ones are for the probes."""


@dataclass(frozen=True)
class Likelihood:
    """Likelihoods of N samples.

    Attributes:
        log_density: (N,) float64, in nats, of the data in the model's own range; on CLD a lower bound.
        bits_per_dim: (N,) float64, of 8-bit images; lower is better; None without dequantization.
        standard_error: (N,) float64, of ``log_density``, estimated from several probes; None with one probe.
        evaluations: (N,) int64, the number of evaluations of the network and its derivative.
    """

    log_density: Tensor
    bits_per_dim: Tensor | None
    standard_error: Tensor | None
    evaluations: Tensor


class LikelihoodEstimator:
    """Estimates likelihoods of batches under one model.

    Args:
        model: any `ScoreFunction` of continuous time.
        probes: the number of Hutchinson probes per sample.
        probe: the distribution of probes, "rademacher" or "normal"; or "exact" for the exact trace of small samples.
        dequantize: add uniform noise of one 8-bit step to images, as bits per dimension require; ignored for points.
        options: the fields of `FlowOptions` and `RunOptions`.

    Raises:
        TypeError: an option is unknown.
        ValueError: an option is out of range, or the model was trained at discrete times only.
    """

    @accepting_options(FlowOptions)
    def __init__(
        self,
        model: ScoreFunction,
        *,
        probes: int = 1,
        probe: ProbeKind = "rademacher",
        dequantize: bool = True,
        **options: Any,
    ) -> None:
        self.dequantize = dequantize and model.is_image
        self.flow = ProbabilityFlow(model, to_data=False, probes=Probes(probe, probes), **options)
        self.model = self.flow.model

    def estimate(
        self, data: ArrayLike, seeds: Sequence[int] | None = None, on_step: OnStep | None = None
    ) -> Likelihood:
        """Return the likelihoods of images (N, C, H, W), uint8 or in [0, 1], or of points.

        Args:
            data: the samples, also an array or images of Pillow; dequantization needs 8-bit values: uint8, or floats
                that are multiples of 1/255.
            seeds: seeds of all random numbers, one per sample, by default 0, 1, ...
            on_step: callback for the progress of a batch.

        Raises:
            ValueError: the data has a wrong shape or range, there is not one seed per sample, or values to dequantize
                are not 8-bit values.
            IntegrationError: see `ProbabilityFlow.run`.
        """
        data = with_batch(as_tensor(data, self.model.image_shape[:1]), self.model)
        ids, model = sample_ids(data, seeds), self.model
        run_seed = self.flow.run_options.run_seed
        images = data.double() / 255 if data.dtype == torch.uint8 else data
        if self.dequantize:
            images = dequantized(images, ids, run_seed)
        states = data_states(model, images, ids, run_seed)
        result = self.flow.run(states, ids, on_step)
        log_density = self._log_density(result.states, result.divergence)
        dimensions = math.prod(model.image_shape)
        if self.flow.options.steps is not None:
            embedded = self._log_density(
                result.states - result.state_error, result.divergence - result.divergence_error
            )
            self.flow.warn_of_error(
                (log_density - embedded) / (dimensions * math.log(2)), NEGLIGIBLE, "likelihoods", "bits per dimension"
            )
        if isinstance(model.sde, CLDSDE):
            log_density = position_log_density_bound(log_density, model.sde, dimensions)
        bits = bits_per_dimension(log_density, dimensions, model.span) if self.dequantize else None
        count = result.divergence.shape[1]
        standard_error = result.divergence.std(1) / math.sqrt(count) if count > 1 else None
        return Likelihood(log_density, bits, standard_error, result.evaluations)

    def _log_density(self, states: Tensor, divergence: Tensor) -> Tensor:
        """Return the log density (N,) of data from its states at T and the divergences (N, P)."""
        return torch.from_numpy(self.model.sde.prior_log_density(states.numpy())) + divergence.mean(1)


def likelihood(model: ScoreFunction, data: ArrayLike, seeds: Sequence[int] | None = None, **options: Any) -> Likelihood:
    """Return log densities, and bits per dimension of 8-bit images, under a model.

    ``options`` are as in `LikelihoodEstimator`; data, seeds and errors as in `LikelihoodEstimator.estimate`.
    """
    data = with_batch(as_tensor(data, model.image_shape[:1]), model)
    return LikelihoodEstimator(model, **with_inputs(options, sample_ids(data, seeds))).estimate(data, seeds)


def dequantized(images: Tensor, ids: Sequence[int], run_seed: int) -> Tensor:
    """Return 8-bit images (N, C, H, W) in [0, 1] with uniform noise u from their seeds: (pixel + u) / 256, float64.

    Raises:
        ValueError: a value is not an 8-bit pixel value.
    """
    scaled = images.double().cpu() * (PIXEL_VALUES - 1)
    pixels = scaled.round()
    rounding = (scaled - pixels).abs().nan_to_num(math.inf)
    if not (rounding < 1e-3).all():
        raise ValueError(
            f"a pixel is {float(images.flatten()[rounding.argmax()]):.6g}, which is not a multiple of 1/255: bits per "
            "dimension need 8-bit images; give such images, or choose dequantize=False to get only the log density"
        )
    require_unit_range(pixels / (PIXEL_VALUES - 1))
    noise = uniforms(
        torch.tensor(list(ids), dtype=torch.int64, device="cpu"), run_seed, DEQUANTIZATION_DRAW, pixels[0:1].numel()
    )
    return (pixels + noise.view(pixels.shape)) / PIXEL_VALUES


def bits_per_dimension(log_density: Tensor, dimensions: int, span: float) -> Tensor:
    """Return the negative log-likelihood (B,) of 8-bit images in bits per dimension, from the log density (B,) in nats.

    The density is of dequantized images whose 2^8 pixel values fill a range of length ``span`` (Song et al. 2021,
    appendix D).
    """
    return math.log2(PIXEL_VALUES / span) - log_density / (dimensions * math.log(2))


def position_log_density_bound(joint_log_density: Tensor, sde: CLDSDE, dimensions: int) -> Tensor:
    """Return a lower bound on log p(x(0)) (B,) from E[log p(u(0))] (B,) over v(0) ~ N(0, gamma M), both in nats.

    log p(x) = log E_v[p(x, v) / q(v)] >= E_v[log p(x, v)] + H(q) by Jensen (Dockhorn et al. 2022, appendix).
    """
    return joint_log_density + sde.velocity_entropy(dimensions)
