# SPDX-License-Identifier: Apache-2.0
"""`Sampler`: from a model and options to batches of images."""

from scoresde_fast.sampler.sampler import Sampler

__all__ = ["Sampler"]
