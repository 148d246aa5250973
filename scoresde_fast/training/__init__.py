# SPDX-License-Identifier: Apache-2.0
"""Training of score models and of classifiers for guidance, and the recipes of the embedded models."""

from scoresde_fast.training.classifier import ClassifierTrainer, train_classifier
from scoresde_fast.training.recipes import (
    ClassifierRecipe,
    is_classifier_recipe,
    load_classifier_recipe,
    load_recipe,
    recipe_names,
)
from scoresde_fast.training.trainer import Trainer, train

__all__ = [
    "ClassifierRecipe",
    "ClassifierTrainer",
    "Trainer",
    "is_classifier_recipe",
    "load_classifier_recipe",
    "load_recipe",
    "recipe_names",
    "train",
    "train_classifier",
]
