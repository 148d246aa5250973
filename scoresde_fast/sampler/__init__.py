# SPDX-License-Identifier: Apache-2.0
"""`Sampler`: a model, a solver, a precision and a backend make batches of images."""

from scoresde_fast.sampler.sampler import Sampler

__all__ = ["Sampler"]
