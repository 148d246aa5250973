# SPDX-License-Identifier: Apache-2.0
"""What identifies the training data of a run, so that a run does not go on with other data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scoresde_fast.data.images import Images
from scoresde_fast.generate.manifest import data_sha256

SAMPLED = 64
"""Number of images, evenly spaced, whose contents identify data that stay on disk."""


def identify(data: Tensor | Images, labels: Tensor | None = None) -> dict[str, Any]:
    """Return what identifies training data, as JSON values: number, shape and a hash of the contents.

    Of data that stay on disk, which are larger than 2 GiB, `SAMPLED` images are hashed.
    """
    count = len(data)
    spaced = torch.linspace(0, count - 1, min(SAMPLED, count), dtype=torch.float64).long()
    hashed = data[spaced] if isinstance(data, Images) else data
    hashes = [data_sha256(part) for part in (hashed, labels) if part is not None]
    return {"count": count, "shape": list(hashed.shape[1:]), "hashed": len(hashed), "sha256": hashes}


def describe_change(saved: dict[str, Any], now: dict[str, Any]) -> str:
    """Return in what training data differ from those with the identity ``saved``, or an empty string."""
    if saved.get("count") != now["count"]:
        return f"{saved.get('count')} then, {now['count']} now"
    if saved.get("shape") != now["shape"]:
        return f"of shape {saved.get('shape')} then, {now['shape']} now"
    # Another version may hash another number of images.
    if saved.get("hashed") == now["hashed"] and saved.get("sha256") != now["sha256"]:
        return "as many of the same shape, but with other contents"
    return ""
