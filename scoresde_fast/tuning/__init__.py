# SPDX-License-Identifier: Apache-2.0
"""Tuning: solvers with few evaluations fitted to a model, grids from its flow, and the steps that fit a time."""

from scoresde_fast.tuning.gits import gits
from scoresde_fast.tuning.statistics import empirical_statistics
from scoresde_fast.tuning.time_budget import steps_within
from scoresde_fast.tuning.tune import tune

__all__ = ["empirical_statistics", "gits", "steps_within", "tune"]
