# SPDX-License-Identifier: Apache-2.0
"""Samplers that choose the length of every step by its error, for each sample on its own: "rk45" and "ggf"."""

from scoresde_fast.adaptive.engine import AdaptiveEngine
from scoresde_fast.adaptive.options import ADAPTIVE, AdaptiveOptions

__all__ = ["ADAPTIVE", "AdaptiveEngine", "AdaptiveOptions"]
