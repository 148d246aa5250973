# SPDX-License-Identifier: Apache-2.0
"""What decides the numbers of a flow, as plain values to be kept beside them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from torch import Tensor

from scoresde_fast.fingerprint import describe_model
from scoresde_fast.flow.runner import FlowRunner, FlowSettings

Json = dict[str, Any]
WHERE = ("device", "batch_size", "capture", "precision")
"""Settings of a flow that are no part of what it computes, or are asked for in another form than they are used."""


def describe_flow(runner: FlowRunner) -> Json:
    """Everything that decides the numbers of a flow, as plain values."""
    model, settings = runner.model, asdict(runner.settings)
    batch = {"batch_size": settings["batch_size"]} if batch_dependent(runner.settings) else {}
    return {
        "model": describe_model(model),
        **{name: value for name, value in settings.items() if name not in WHERE},
        "eps": runner.settings.low(model.sde),
        "precision": runner.precision,
        **batch,
    }


def batch_dependent(settings: FlowSettings) -> bool:
    """Whether a sample depends on the others of its batch."""
    return settings.steps is None and settings.error_norm == "batch"


def data_sha256(data: Tensor) -> str:
    """SHA-256 of samples, their dtype and shape included."""
    digest = hashlib.sha256(json.dumps([str(data.dtype), list(data.shape)]).encode())
    digest.update(data.contiguous().numpy().tobytes())
    return digest.hexdigest()
