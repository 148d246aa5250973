# SPDX-License-Identifier: Apache-2.0
"""Where programs put weights in a checkpoint, and the prefixes that wrappers add to their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

RAW = ("model", "state_dict", "model_state_dict", "network", "net", "score_model", "params")
"""Keys of the weights of a training, in the order in which they are looked up."""
AVERAGED = (
    "ema", "model_ema", "ema_model", "ema_state_dict", "model_ema_state_dict", "state_dict_ema", "params_ema",
    "ema_params",
)  # fmt: skip
"""Keys of their moving average."""
INNER = ("shadow_params", "shadow", "state_dict", "model", "module", "params")
"""Keys of the weights within the state of a moving average or of a wrapper."""
PREFIXES = ("module.", "model.", "network.", "net.", "score_model.", "ema_model.")
"""Prefixes of all names that DataParallel, Lightning and classes of one's own add."""
COMPILED = "_orig_mod."
"""Part of names that `torch.compile` adds."""
COUNTERS = ("n_averaged",)
"""Tensors of `torch.optim.swa_utils.AveragedModel` that are no weights."""

Named = dict[str, Tensor]


class FoundWeights(NamedTuple):
    """The weights of a checkpoint: raw, averaged (a list has no names), and whether it is a bare state dict."""

    raw: Named
    averaged: Named | list[Tensor]
    bare: bool


def find_weights(content: Any) -> FoundWeights | None:
    """Return the weights in the content of a checkpoint, or None if it has none by name."""
    if bare := _named(content):
        return FoundWeights(bare, [], bare=True)
    if not isinstance(content, Mapping):
        return None
    raw = next((found for key in RAW if (found := _weights(content.get(key))) and isinstance(found, dict)), {})
    averaged = next((found for key in AVERAGED if (found := _weights(content.get(key)))), [])
    return FoundWeights(raw, averaged, bare=False) if raw or isinstance(averaged, dict) else None


def _weights(value: Any) -> Named | list[Tensor]:
    """Return the weights that ``value`` is or contains; empty if there are none."""
    if isinstance(value, list | tuple) and all(isinstance(item, Tensor) for item in value):
        return list(value)
    if named := _named(value):
        return named
    inner = [value[key] for key in INNER if key in value] if isinstance(value, Mapping) else []
    return next((found for item in inner if (found := _weights(item))), [])


def _named(value: Any) -> Named:
    """Return a state dict with plain names, or an empty one if ``value`` is not a state dict."""
    if not isinstance(value, Mapping) or not all(isinstance(item, Tensor) for item in value.values()):
        return {}
    weights = {str(name).replace(COMPILED, ""): item for name, item in value.items() if name not in COUNTERS}
    while prefix := next((each for each in PREFIXES if weights and all(name.startswith(each) for name in weights)), ""):
        weights = {name.removeprefix(prefix): item for name, item in weights.items()}
    return weights
