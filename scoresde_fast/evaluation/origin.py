# SPDX-License-Identifier: Apache-2.0
"""Where evaluated images come from: the model, the solver and the evaluations of a sampler, or of a set's manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scoresde_fast.evaluation.collect import SampledImages
from scoresde_fast.generate.manifest import Manifest
from scoresde_fast.generate.stores import open_store


def sampler_origin(images: SampledImages) -> dict[str, Any]:
    """Return the rounding, the network evaluations of an image and the settings of a sampler, as JSON values."""
    nfe = getattr(images.sampler, "nfe", None)
    return {"rounding": images.rounding, "nfe": nfe, "sampler": images.sampler.describe()}


def set_origin(source: str) -> dict[str, Any]:
    """Return the same of the set of samples ``source`` from its manifest; nothing for other images."""
    try:
        store = open_store(Path(source))
        if not store.manifest.is_file():
            return {}
        configuration = Manifest.read(store.manifest).configuration
    except (ValueError, OSError):  # no file of a set, or a damaged manifest
        return {}
    return {name: configuration[name] for name in ("rounding", "nfe", "sampler") if name in configuration}


def origin_sentence(origin: Mapping[str, Any]) -> str | None:
    """Return a sentence about the model, the solver, its steps and network evaluations; None if they are unknown."""
    sampler = origin.get("sampler")
    if not isinstance(sampler, Mapping) or "solver" not in sampler:
        return None
    parts = [f"solver {sampler['solver']}"]
    if sampler.get("steps") is not None:
        parts.append(f"{sampler['steps']} steps")
    if origin.get("nfe") is not None:
        parts.append(f"{origin['nfe']} NFE each")
    model = sampler.get("model") or {}
    config = model.get("config", {})
    name = config.get("model", {}).get("name", model.get("network", "a network"))
    on = f" on {config['training']['sde']}" if "sde" in config.get("training", {}) else ""
    weights = f", weights {model['weights_sha256'][:12]}" if "weights_sha256" in model else ""
    return f"sampled from {name}{on}{weights}: {', '.join(parts)}"
