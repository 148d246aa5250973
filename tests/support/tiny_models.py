# SPDX-License-Identifier: Apache-2.0
"""Small networks and classifiers with fresh weights, for tests that need any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import scoresde_fast as sf
from scoresde_fast.checkpoints import save_classifier
from scoresde_fast.classifier import Classifier, ClassifierConfig

SIZE = 16
MODEL = "digits-vp"
LOAD = "scoresde_fast.checkpoints.python_models.load"
"""Where the command line looks up `scoresde_fast.load`."""
FAST = ["--solver", "sa", "--steps", "3"]
OPTIONS: dict[str, Any] = {"solver": "sa", "steps": 3}
"""FAST as keyword arguments."""


def replace_digits(monkeypatch: pytest.MonkeyPatch) -> sf.ScoreModel:
    """Make `scoresde_fast.load` and the command line use a small model for MODEL, with the same shape and SDE."""
    torch.manual_seed(0)
    options = {
        "model": {"name": "ncsnpp", "nf": 8, "ch_mult": [1, 1], "num_res_blocks": 1, "init_scale": 1.0, "dropout": 0.0},
        "data": {"image_size": SIZE, "centered": True},
        "training": {"sde": "vpsde"},
    }
    model, load = sf.create(options).eval(), sf.load
    for target in ("scoresde_fast.load", LOAD):
        monkeypatch.setattr(target, lambda name, **more: model if name == MODEL else load(name, **more), raising=False)
    return model


def saved_classifier(folder: Path, **options: Any) -> str:
    """Save a small classifier for MODEL's images, and return its folder."""
    torch.manual_seed(0)
    chosen = {
        "image_shape": (3, SIZE, SIZE),
        "classes": ("zero", "one", "7", "three"),
        "low": 0.01,
        "high": 1000.0,
        "widths": (8, 16),
        **options,
    }
    save_classifier(Classifier(ClassifierConfig(**chosen)), folder)
    return str(folder)


def read(path: Path) -> np.ndarray:
    """Return the pixels of a PNG."""
    return np.asarray(Image.open(path))


def small_model(sde: str, **training: Any) -> sf.ScoreModel:
    """Return a small model of 8x8 images with nonzero weights in the last layer."""
    size = {"nf": 8, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": ()}
    config: dict[str, Any] = {
        "model": {"name": "ncsnpp", **size, "num_scales": 20, "embedding_type": "positional"},
        "data": {"dataset": "digits", "image_size": 8, "num_channels": 1, "uniform_dequantization": True},
        "training": {"sde": sde, **training},
    }
    torch.manual_seed(0)
    model = sf.create(config).eval()
    for parameter in model.network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return model
