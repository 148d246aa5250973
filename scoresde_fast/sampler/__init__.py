# SPDX-License-Identifier: Apache-2.0
"""`Sampler`: batches of images from a model and options."""

from scoresde_fast.sampler.sampler import Sampler

__all__ = ["Sampler"]
