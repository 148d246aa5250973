# SPDX-License-Identifier: Apache-2.0
"""Files of weights: safetensors, one file or several with an index, and checks of the weights in any file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scoresde_fast.configs.text_files import parse_json, read_text
from scoresde_fast.errors import listed, shown

SUFFIX, INDEX_SUFFIX = ".safetensors", ".safetensors.index.json"
REAL = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Dtypes of weights."""


def is_safetensors(path: Path) -> bool:
    """Return whether a path is that of a safetensors file, or of the index of several."""
    return path.name.endswith((SUFFIX, INDEX_SUFFIX))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or the files that an index names, which lie beside it.

    Raises:
        ValueError: a file is corrupt, or the index is not one or does not fit its files.
        FileNotFoundError: a file of the index does not exist.
    """
    if not path.name.endswith(INDEX_SUFFIX):
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{str(path)!r} is not a safetensors file, or is truncated or corrupt") from error
    weight_map = _weight_map(path)
    files = sorted(set(weight_map.values()))
    if missing := [name for name in files if not (path.parent / name).is_file()]:
        raise FileNotFoundError(f"{str(path)!r} names files that do not exist beside it: {listed(missing)}")
    tensors: dict[str, Tensor] = {}
    for file in files:
        content = read_safetensors(path.parent / file)
        names = [name for name, place in weight_map.items() if place == file]
        if absent := [name for name in names if name not in content]:
            raise ValueError(f"{str(path)!r} does not fit {file!r}, which lacks the weights {listed(absent)}")
        tensors |= {name: content[name] for name in names}
    return tensors


def _weight_map(path: Path) -> dict[str, str]:
    """Return the file of each weight, by the index at ``path``."""
    try:
        index = parse_json(read_text(path))
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{str(path)!r} is no index of safetensors files: it has no 'weight_map' of names to files")
    for file in weight_map.values():
        if not isinstance(file, str) or not file.endswith(SUFFIX) or file != Path(file.replace("\\", "/")).name:
            raise ValueError(
                f"{str(path)!r} places a weight in {shown(file)}; an index may only name {SUFFIX} files beside it"
            )
    return weight_map


def require_real(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` unless weights are dense, floating-point, finite, and within the range of float32."""
    for name, weight in weights.items():
        kind = str(weight.dtype).removeprefix("torch.")
        if weight.layout is not torch.strided:
            kind = "sparse"
        elif weight.is_meta:
            kind = "without values"
        elif weight.dtype in REAL:
            if not weight.float().isfinite().all():
                raise ValueError(
                    f"{str(path)!r} has NaN, infinite or too large values in the weight {listed([name])}: the training "
                    "has diverged or the file is damaged; use an earlier checkpoint"
                )
            continue
        raise ValueError(
            f"{str(path)!r} has the weight {listed([name])}, which is {kind}; weights must be dense, with values in "
            "float32, float16, bfloat16 or float64"
        )
