# SPDX-License-Identifier: Apache-2.0
"""Features of images from the embedded extractor ``digits-features``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from scoresde_fast.networks.feature_net import FeatureNet

WEIGHTS = Path(__file__).resolve().parent.parent / "embedded" / "digits-features" / "features.safetensors"


@cache
def _extractor() -> FeatureNet:
    network = FeatureNet()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


@torch.inference_mode()
def extract_features(images: Tensor, batch_size: int = 256) -> Tensor:
    """(N, 3, 16, 16) in [0, 1] -> (N, 64) float64.

    Raises:
        ValueError: the images have another shape.
    """
    if tuple(images.shape[1:]) != (3, 16, 16):
        raise ValueError(f"images have the shape {tuple(images.shape[1:])}; digits-features takes (3, 16, 16)")
    batches = images.cpu().float().split(batch_size)
    return torch.cat([_extractor().features(batch) for batch in batches]).double()
