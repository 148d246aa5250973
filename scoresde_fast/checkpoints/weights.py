# SPDX-License-Identifier: Apache-2.0
"""A network's weights under their official names, and the sentence that says how a set of weights does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Size, Tensor, nn

from scoresde_fast.networks import official_modules


@dataclass(frozen=True)
class Weight:
    """One weight: its name in official checkpoints, its tensor here, and whether the optimiser moves it."""

    name: str
    tensor: Tensor
    trainable: bool


def official_weights(network: nn.Module) -> list[Weight]:
    """All weights of ``network`` in the original's order, that of its EMA list; the buffer ``sigmas`` first, if any."""
    levels = dict(network.named_buffers(recurse=False)).get("sigmas")
    weights = [] if levels is None else [Weight("sigmas", levels, False)]
    for index, module in enumerate(official_modules(network)):
        for path, tensor in module.state_dict(keep_vars=True).items():
            weights.append(Weight(f"all_modules.{index}.{_official(module, path)}", tensor, tensor.requires_grad))
    return weights


def _official(module: nn.Module, path: str) -> str:
    """The official name of the tensor at ``path``: a composite module names its parts, leaves are named alike."""
    part, _, leaf = path.rpartition(".")
    names: Mapping[str, str] = getattr(module, "OFFICIAL_NAMES", {})
    return f"{names[part]}.{leaf}" if part else leaf


def misfit(wanted: Mapping[str, Size], found: Mapping[str, Size]) -> str:
    """What is missing from, unexpected in and misshapen in ``found``, by name; empty when everything fits."""
    misshapen = [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    parts = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "misshapen": misshapen,
    }
    return "; ".join(f"{kind}: {_listed(names)}" for kind, names in parts.items() if names)


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
