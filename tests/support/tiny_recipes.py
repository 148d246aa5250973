# SPDX-License-Identifier: Apache-2.0
"""A small recipe of a classifier."""

from __future__ import annotations

from typing import Any

import torch

from scoresde_fast.classifier import Classifier
from scoresde_fast.training import ClassifierRecipe

TINY_RECIPE: dict[str, Any] = {
    "classifier": {
        "image_shape": [3, 16, 16],
        "classes": [str(digit) for digit in range(10)],
        "widths": [8, 16],
        "dropout": 0.1,
    },
    "models": ["digits-ve", "digits-cld"],
    "data": {"dataset": "digits:train", "shift": 1, "shuffle_channels": 0.5, "random_flip": True},
    "training": {"batch_size": 8, "n_iters": 7, "log_freq": 2, "snapshot_freq": 3},
    "optim": {"lr": 2e-3, "warmup": 3},
}


def tiny_recipe(**sections: Any) -> ClassifierRecipe:
    """Return the tiny recipe with some options replaced, by section."""
    changed = {name: {**TINY_RECIPE[name], **options} for name, options in sections.items()}
    return ClassifierRecipe.from_dict({**TINY_RECIPE, **changed})


def tiny_classifier() -> Classifier:
    """Return the tiny recipe's classifier with fresh weights."""
    torch.manual_seed(0)
    return Classifier(tiny_recipe().classifier)
