# SPDX-License-Identifier: Apache-2.0
"""``digits-features``, the embedded feature extractor for digits."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from scoresde_fast.networks import FeatureNet

DIGITS_FEATURES = "digits-features"
DIGITS_SHAPE = (3, 16, 16)
WEIGHTS = Path(__file__).resolve().parent.parent / "embedded" / DIGITS_FEATURES / "features.safetensors"


@torch.inference_mode()
def extract_features(images: Tensor, batch_size: int = 256) -> Tensor:
    """Return the features (N, 64) float64 of images (N, 3, 16, 16) in [0, 1].

    Raises:
        ValueError: the images have another shape.
    """
    require_digits_shape(images)
    batches = images.cpu().float().split(batch_size)
    return torch.cat([_shared_network().features(batch) for batch in batches]).double()


def digits_network() -> FeatureNet:
    """Return a new network with the embedded weights."""
    network = FeatureNet()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


_shared_network = cache(digits_network)


def require_digits_shape(images: Tensor) -> None:
    """Raise ValueError unless ``images`` are (N, 3, 16, 16)."""
    if tuple(images.shape[1:]) != DIGITS_SHAPE:
        raise ValueError(f"images have the shape {tuple(images.shape[1:])}; digits-features takes {DIGITS_SHAPE}")
