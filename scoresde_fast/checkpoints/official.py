# SPDX-License-Identifier: Apache-2.0
"""Official PyTorch checkpoints: reading without executing code, and strict loading."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from torch import Tensor

from scoresde_fast.checkpoints.weights import (
    Weight,
    fitting_presets,
    has_noise_levels,
    misfit,
    official_weights,
    other_kind,
)
from scoresde_fast.model import ScoreModel

# The warm-up of the official code leaves NumPy scalars in the optimizer's section. These globals only rebuild scalars;
# files written with NumPy 1 name the module without the underscore.
_NUMPY_SCALARS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    scalar,
    (scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float32", "float64", "int32", "int64")),
]


@dataclass(frozen=True)
class OfficialCheckpoint:
    """The weights in an official checkpoint: ``model`` by official name, and the averages ``shadow`` in EMA order."""

    path: Path
    model: dict[str, Tensor]
    shadow: list[Tensor]


def read_official(path: str | Path) -> OfficialCheckpoint:
    """Read an official ``.pth`` file onto the CPU; nothing in it is executed.

    Raises:
        ValueError: the file is empty or truncated, is not a checkpoint, or contains more than tensors and numbers.
        FileNotFoundError: the file does not exist.
    """
    path = Path(path)
    content = _read(path)
    sections = content if isinstance(content, Mapping) else {}
    model, ema = sections.get("model"), sections.get("ema")
    shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if (
        not isinstance(model, Mapping)
        or not isinstance(shadow, list)
        or not all(isinstance(value, Tensor) for value in (*model.values(), *shadow))
    ):
        keys = ", ".join(map(repr, sections)) or f"a {type(content).__name__}"
        raise ValueError(
            f"{str(path)!r} is not an official checkpoint: it must contain the weights 'model' and the list "
            f"'shadow_params' in 'ema', but contains {keys}"
        )
    # The official code trains inside DataParallel, which adds the prefix "module.".
    weights = {str(name).removeprefix("module."): tensor for name, tensor in model.items()}
    return OfficialCheckpoint(path, weights, shadow)


def copy_official(model: ScoreModel, checkpoint: OfficialCheckpoint, ema: bool = True) -> None:
    """Copy the averaged weights of an official checkpoint into ``model``; without ``ema`` the raw ones.

    Raises:
        ValueError: the weights or the noise levels do not fit exactly. The message lists missing, unexpected and
            misshapen weights, or identifies another kind of model, and names the presets that fit.
    """
    weights = official_weights(model.network)
    problem = misfit({w.name: w.tensor.shape for w in weights}, {k: v.shape for k, v in checkpoint.model.items()})
    if problem:
        if kind := other_kind(model.config, checkpoint.model):
            raise ValueError(f"{str(checkpoint.path)!r} {kind}{_advice(checkpoint, 'give its own configuration')}")
        raise ValueError(f"{str(checkpoint.path)!r} does not fit the configuration ({problem}){_advice(checkpoint)}")
    if not has_noise_levels(model.config, checkpoint.model):
        sigmas, ours = checkpoint.model["sigmas"], model.config.model
        raise ValueError(
            f"{str(checkpoint.path)!r} belongs to another model: its noise levels run from {sigmas[-1]:.5g} to "
            f"{sigmas[0]:.5g}, the configuration's from {ours.sigma_min:.5g} to {ours.sigma_max:.5g}"
            f"{_advice(checkpoint)}"
        )
    values = dict(checkpoint.model)
    if ema:
        values |= _averaged(checkpoint, [weight for weight in weights if weight.trainable])
    with torch.no_grad():
        for weight in weights:
            weight.tensor.copy_(values[weight.name])


def _averaged(checkpoint: OfficialCheckpoint, trainable: list[Weight]) -> dict[str, Tensor]:
    """Return the EMA weights by name. The list has no names, so its length and every shape must agree."""
    if len(checkpoint.shadow) != len(trainable):
        raise ValueError(
            f"{str(checkpoint.path)!r} has {len(checkpoint.shadow)} averaged weights for {len(trainable)} trainable "
            "ones; ema=False loads the raw weights"
        )
    averaged = {weight.name: tensor for weight, tensor in zip(trainable, checkpoint.shadow, strict=True)}
    problem = misfit({w.name: w.tensor.shape for w in trainable}, {k: v.shape for k, v in averaged.items()})
    if problem:
        raise ValueError(f"the averaged weights of {str(checkpoint.path)!r} do not fit ({problem})")
    return averaged


def _advice(checkpoint: OfficialCheckpoint, otherwise: str = "it fits no preset either") -> str:
    """Return the end of an error message: the presets that fit, or ``otherwise``."""
    names = fitting_presets(checkpoint.model)
    return f"; it fits {' or '.join(map(repr, names))}" if names else f"; {otherwise}"


def _read(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint file {str(path)!r} does not exist")
    if path.stat().st_size == 0:
        raise ValueError(f"{str(path)!r} is empty")
    try:
        # No mmap: a training program may overwrite the file while it is being read.
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"{str(path)!r} contains more than tensors and numbers ({refused[1]}), which could execute code when "
                "read; save its weights alone and load that file"
            ) from error
        raise ValueError(_unreadable(path)) from error
    except OSError:
        raise
    except Exception as error:  # corrupt bytes may raise anything
        raise ValueError(_unreadable(path)) from error


def _unreadable(path: Path) -> str:
    return f"{str(path)!r} is not a PyTorch checkpoint, or is truncated or corrupt"
