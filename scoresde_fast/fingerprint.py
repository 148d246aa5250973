# SPDX-License-Identifier: Apache-2.0
"""SHA-256 hashes of models and data."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import Tensor, nn


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of a model's weights and buffers: their names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def shape_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of a model's class and of its weights' and buffers' names, dtypes and shapes."""
    weights = [(name, str(weight.dtype), list(weight.shape)) for name, weight in model.state_dict().items()]
    return hashlib.sha256(json.dumps([type(model).__name__, weights]).encode()).hexdigest()


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Return the hash of a model's weights and its configuration (or its class, if it has none), as JSON values."""
    config = getattr(model, "config", None)
    return {
        "weights_sha256": weights_sha256(model),
        "config": type(model).__name__ if config is None else config.to_dict(),
    }


def data_sha256(data: Tensor) -> str:
    """Return the SHA-256 of a tensor: its dtype, shape and values."""
    digest = hashlib.sha256(json.dumps([str(data.dtype), list(data.shape)]).encode())
    digest.update(data.contiguous().numpy().tobytes())
    return digest.hexdigest()
