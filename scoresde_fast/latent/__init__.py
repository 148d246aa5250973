# SPDX-License-Identifier: Apache-2.0
"""What a model's probability flow makes of data: latent codes, which it makes data of again, and likelihoods."""

from scoresde_fast.latent.codes import Decoder, decode, encode, interpolate
from scoresde_fast.latent.density import Likelihood, LikelihoodEstimator, likelihood
from scoresde_fast.latent.runner import FlowRunner, FlowSettings, Probes

__all__ = [
    "Decoder",
    "FlowRunner",
    "FlowSettings",
    "Likelihood",
    "LikelihoodEstimator",
    "Probes",
    "decode",
    "encode",
    "interpolate",
    "likelihood",
]
