# SPDX-License-Identifier: Apache-2.0
"""Features of images from the embedded extractor ``digits-features``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from scoresde_fast.networks import FeatureNet

WEIGHTS = Path(__file__).resolve().parent.parent / "embedded" / "digits-features" / "features.safetensors"
SHAPE = (3, 16, 16)


def feature_net() -> FeatureNet:
    """The embedded network with its weights, in evaluation mode."""
    network = FeatureNet()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


_extractor = cache(feature_net)


def require_digits_shape(images: Tensor) -> None:
    """Raises ValueError unless images are (N, 3, 16, 16)."""
    if tuple(images.shape[1:]) != SHAPE:
        raise ValueError(f"images have the shape {tuple(images.shape[1:])}; digits-features takes {SHAPE}")


@torch.inference_mode()
def extract_features(images: Tensor, batch_size: int = 256) -> Tensor:
    """(N, 3, 16, 16) in [0, 1] -> (N, 64) float64.

    Raises:
        ValueError: the images have another shape.
    """
    require_digits_shape(images)
    batches = images.cpu().float().split(batch_size)
    return torch.cat([_extractor().features(batch) for batch in batches]).double()
