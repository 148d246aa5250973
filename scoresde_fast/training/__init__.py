# SPDX-License-Identifier: Apache-2.0
"""Training by denoising score matching, and the recipes of the embedded models."""

from scoresde_fast.training.recipes import load_recipe, recipe_names
from scoresde_fast.training.run import train
from scoresde_fast.training.trainer import Trainer

__all__ = ["Trainer", "load_recipe", "recipe_names", "train"]
