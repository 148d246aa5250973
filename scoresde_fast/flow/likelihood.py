# SPDX-License-Identifier: Apache-2.0
"""Likelihoods by the probability flow's change of variables (Song et al. 2021, section 4.3 and appendix D.2).

    log p(x(0)) = log p_T(x(T)) + integral of div f(x(t), t) dt        along the flow f from the data to the prior

On CLD it is that of position and velocity together, and with the entropy of the velocity a lower bound on that of the
position (Dockhorn et al. 2022, appendix).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.flow.codes import data_states, sample_ids
from scoresde_fast.flow.options import FlowOptions, ProbeKind, Probes
from scoresde_fast.flow.probability_flow import ProbabilityFlow
from scoresde_fast.keywords import accepting_options
from scoresde_fast.loop.watch import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.rng import uniforms
from scoresde_fast.sdes import CLDSDE

LEVELS = 256
"""Of 8-bit data, to which uniform noise of one level's width was added."""
DEQUANTISATION_DRAW, PROBE_DRAW = 0, 2
"""Fields of a sample's seed; that between them is CLD's velocity."""


@dataclass(frozen=True)
class Likelihood:
    """Of N samples.

    Attributes:
        log_density: (N,) float64, in nats, of the data in the model's own range; on CLD a lower bound.
        bits_per_dim: (N,) float64 of 8-bit images, the smaller the better; None where there was no dequantisation.
        standard_error: (N,) float64, of ``log_density``, from the spread of the probes; None with one probe or none.
        evaluations: (N,) int64, of the network and its derivative.
    """

    log_density: Tensor
    bits_per_dim: Tensor | None
    standard_error: Tensor | None
    evaluations: Tensor


class LikelihoodEstimator:
    """Likelihoods under one model, of one batch of samples after another.

    Args:
        model: any `ScoreFunction` of continuous time.
        probes: Hutchinson's fields a sample.
        probe: "rademacher", "normal" or "exact" (the trace itself: for small samples).
        dequantize: add uniform noise of one level to 8-bit images, as bits per dimension ask; points have none.
        options: those of `FlowOptions` and `RunOptions`.

    Raises:
        ValueError: an option is unknown or out of range, or the model is not of continuous time.
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
        self.flow = ProbabilityFlow(model, to_data=False, probes=Probes(probe, probes, PROBE_DRAW), **options)
        self.model = self.flow.model

    def estimate(self, data: Tensor, seeds: Sequence[int] | None = None, on_step: OnStep | None = None) -> Likelihood:
        """Of images (N, C, H, W), uint8 or in [0, 1], or of points.

        Args:
            data: with dequantisation 8-bit values: uint8, or floats that are whole numbers of 255ths.
            seeds: of every random number, one a sample; None: 0, 1, ...
            on_step: told of progress in parts of a batch.

        Raises:
            ValueError: the shape, range, number of seeds is wrong; or values are not 8-bit where that is asked.
            IntegrationError: see `ProbabilityFlow.run`.
        """
        ids, model = sample_ids(data, seeds), self.model
        run_seed = self.flow.run_options.run_seed
        images = data
        if data.dtype == torch.uint8:
            images = data.double() / 255
        if self.dequantize:
            images = dequantized(data, ids, run_seed)
        states = data_states(model, images, ids, run_seed)
        flowed = self.flow.run(states, ids, on_step)
        prior = torch.from_numpy(model.sde.prior_log_density(flowed.states.numpy()))
        log_density = prior + flowed.divergence.mean(1)
        dimensions = math.prod(model.image_shape)
        if isinstance(model.sde, CLDSDE):
            log_density = position_log_density_bound(log_density, model.sde, dimensions)
        bits = bits_per_dimension(log_density, dimensions, centered=model.centered) if self.dequantize else None
        count = flowed.divergence.shape[1]
        error = flowed.divergence.std(1) / math.sqrt(count) if count > 1 else None
        return Likelihood(log_density, bits, error, flowed.evaluations)


def likelihood(model: ScoreFunction, data: Tensor, seeds: Sequence[int] | None = None, **options: Any) -> Likelihood:
    """Log densities, and bits per dimension of 8-bit images, under a model.

    ``options`` are those of `LikelihoodEstimator`; the rest, and the errors, are those of its `estimate`.
    """
    return LikelihoodEstimator(model, **options).estimate(data, seeds)


def dequantized(images: Tensor, ids: Sequence[int], run_seed: int) -> Tensor:
    """8-bit images (N, C, H, W) with uniform noise of their seeds: (level + u) / 256, float64.

    Raises:
        ValueError: a value is not one of 256 levels.
    """
    levels = images.double().cpu()
    if images.dtype != torch.uint8:
        levels = levels * (LEVELS - 1)
        if len(levels) and not ((levels - levels.round()).abs().max() < 1e-3):
            away = (levels - levels.round()).abs().flatten()
            worst = float(images.flatten()[int(away.nan_to_num(math.inf).argmax())])
            raise ValueError(
                f"a pixel is {worst:.6g}, which is no whole number of 255ths: bits per dimension are of 8-bit images; "
                "give those, or dequantize=False for the log density alone"
            )
        levels = levels.round()
        if len(levels) and not (levels.min() >= 0 and levels.max() < LEVELS):
            raise ValueError(
                f"images have values from {float(images.min()):.4g} to {float(images.max()):.4g}; they must be in "
                "[0, 1], whatever the model's own range: divide 8-bit values by 255"
            )
    noise = uniforms(torch.tensor(list(ids), dtype=torch.int64), run_seed, DEQUANTISATION_DRAW, levels[0:1].numel())
    return (levels + noise.view(levels.shape)) / LEVELS


def bits_per_dimension(log_density: Tensor, dimensions: int, *, centered: bool) -> Tensor:
    """Negative log-likelihood (B,) of 8-bit images in bits per dimension, from the log density (B,) in nats.

    The density is that of dequantised images scaled to [0, 1], or with ``centered`` to [-1, 1]: the offset log2 of the
    levels in a unit is 8, or 7 (Song et al. 2021, appendix D).
    """
    levels_per_unit = LEVELS / (2 if centered else 1)
    return math.log2(levels_per_unit) - log_density / (dimensions * math.log(2))


def position_log_density_bound(joint_log_density: Tensor, sde: CLDSDE, dimensions: int) -> Tensor:
    """A lower bound on log p(x(0)) (B,) from E[log p(u(0))] (B,) over v(0) ~ N(0, gamma M), both in nats.

    log p(x) = log E_v[p(x, v) / q(v)] >= E_v[log p(x, v)] + H(q) by Jensen (Dockhorn et al. 2022, appendix).
    """
    return joint_log_density + sde.velocity_entropy(dimensions)
