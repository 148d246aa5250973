# SPDX-License-Identifier: Apache-2.0
"""A network as a folder of ``config.json`` and ``model.safetensors``, the layout of huggingface-hub's mixin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from scoresde_fast.checkpoints.weights import misfit
from scoresde_fast.configs import load_config
from scoresde_fast.files import make_folder, replacing
from scoresde_fast.model import ScoreModel

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CLASSIFIER = "classifier"
"""The one section of a classifier's configuration, which no score model's has."""
Sections = Mapping[str, Mapping[str, Any]]
"""Options by name, by section."""


def is_saved(folder: str | Path) -> bool:
    """Whether ``folder`` holds a whole saved model; the configuration is written last."""
    return all((Path(folder) / name).is_file() for name in (WEIGHTS, CONFIG))


def is_classifier(folder: str | Path) -> bool:
    """Whether the configuration in ``folder`` is a classifier's; false where there is none that can be read."""
    try:
        return CLASSIFIER in json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError):
        return False


def save(model: ScoreModel, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write ``model`` to ``folder``, trainable weights as ``dtype``, constants as they are.

    A kill at any moment leaves the files of before or the new ones, each whole. Raises ``ValueError`` when the folder
    holds a model of another configuration, or a classifier.
    """
    folder = Path(folder)
    there = None
    if is_saved(folder):
        refuse_classifier(folder, folder)
        there = load_config(folder / CONFIG).to_dict()
    write(model, model.config.to_dict(), folder, dtype, there)


def load(folder: str | Path) -> ScoreModel:
    """The saved model in ``folder``, float32 and in evaluation mode; other files there are ignored.

    Raises ``FileNotFoundError`` when one of the two files is missing, ``ValueError`` when one is damaged or the weights
    are not those of the configuration, naming them, or when it is a classifier.
    """
    folder = Path(folder)
    check_saved(folder, "model")
    refuse_classifier(folder, folder)
    model = ScoreModel(load_config(folder / CONFIG))
    read_weights(model, folder)
    return model.eval()


def write(
    network: nn.Module, options: Sections, folder: Path, dtype: torch.dtype, there: Sections | None = None
) -> None:
    """Write ``options`` and the weights of ``network``, trainable ones as ``dtype``, each file whole or not at all.

    ``there`` are the options of what ``folder`` holds, if anything: raises ``ValueError`` where they are others.
    """
    make_folder(folder)
    if there is not None:
        _refuse_other(folder, there, options)
    trainable = {name for name, weight in network.named_parameters() if weight.requires_grad}
    tensors = {
        name: tensor.detach().to("cpu", dtype if name in trainable else tensor.dtype).contiguous()
        for name, tensor in network.state_dict().items()
    }
    with replacing(folder / WEIGHTS) as file:
        file.write(to_bytes(tensors, metadata={"format": "pt"}))
    with replacing(folder / CONFIG) as file:
        file.write((json.dumps(options, indent=2) + "\n").encode())


def read_weights(network: nn.Module, folder: Path) -> None:
    """Copy the weights in ``folder`` into ``network``; raises ``ValueError`` as `load`."""
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{str(folder / WEIGHTS)!r} is no safetensors file, or is truncated or damaged") from error
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    problem = misfit(wanted, {name: tensor.shape for name, tensor in tensors.items()})
    if problem:
        raise ValueError(f"{str(folder / WEIGHTS)!r} does not fit the {CONFIG} beside it ({problem})")
    network.load_state_dict(tensors)


def check_saved(folder: Path, kind: str) -> None:
    """Raise ``FileNotFoundError`` unless ``folder`` holds a whole saved ``kind``."""
    if not is_saved(folder):
        raise FileNotFoundError(f"{str(folder)!r} holds no saved {kind}: it needs the files {CONFIG} and {WEIGHTS}")


def refuse_classifier(folder: Path, name: str | Path) -> None:
    """Raise ``ValueError`` where ``folder``, which the user calls ``name``, is a classifier's."""
    if is_classifier(folder):
        raise ValueError(
            f"{str(name)!r} is a classifier, which has no score: load_classifier({str(name)!r}) reads it, to guide the "
            "sampling of a model"
        )


def _refuse_other(folder: Path, there: Sections, ours: Sections) -> None:
    for section, options in ours.items():
        for name, value in options.items():
            if there[section][name] != value:
                raise ValueError(
                    f"{str(folder)!r} holds a model of another configuration: {section}.{name} is "
                    f"{there[section][name]!r} there and {value!r} here; choose another folder"
                )
