# SPDX-License-Identifier: Apache-2.0
"""A model as a folder of ``config.json`` and ``model.safetensors``, the layout of huggingface-hub's mixin."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from scoresde_fast.checkpoints.weights import misfit
from scoresde_fast.configs import Config, load_config
from scoresde_fast.files import make_folder, replacing
from scoresde_fast.model import ScoreModel

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def is_saved(folder: str | Path) -> bool:
    """Whether ``folder`` holds a whole saved model; the configuration is written last."""
    return all((Path(folder) / name).is_file() for name in (WEIGHTS, CONFIG))


def save(model: ScoreModel, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write ``model`` to ``folder``, trainable weights as ``dtype``, constants as they are.

    A kill at any moment leaves the files of before or the new ones, each whole. Raises ``ValueError`` when the folder
    holds a model of another configuration.
    """
    folder = Path(folder)
    make_folder(folder)
    if is_saved(folder):
        _refuse_other(folder, model.config)
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    tensors = {
        name: tensor.detach().to("cpu", dtype if name in trainable else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    options = json.dumps(model.config.to_dict(), indent=2) + "\n"
    with replacing(folder / WEIGHTS) as file:
        file.write(to_bytes(tensors, metadata={"format": "pt"}))
    with replacing(folder / CONFIG) as file:
        file.write(options.encode())


def load(folder: str | Path) -> ScoreModel:
    """The saved model in ``folder``, float32 and in evaluation mode; other files there are ignored.

    Raises ``FileNotFoundError`` when one of the two files is missing, ``ValueError`` when one is damaged or the weights
    are not those of the configuration, naming them.
    """
    folder = Path(folder)
    if not is_saved(folder):
        raise FileNotFoundError(f"{str(folder)!r} holds no saved model: it needs the files {CONFIG} and {WEIGHTS}")
    model = ScoreModel(load_config(folder / CONFIG))
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{str(folder / WEIGHTS)!r} is no safetensors file, or is truncated or damaged") from error
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    problem = misfit(wanted, {name: tensor.shape for name, tensor in tensors.items()})
    if problem:
        raise ValueError(f"{str(folder / WEIGHTS)!r} does not fit the {CONFIG} beside it ({problem})")
    model.load_state_dict(tensors)
    return model.eval()


def _refuse_other(folder: Path, config: Config) -> None:
    there, ours = load_config(folder / CONFIG).to_dict(), config.to_dict()
    for section, options in ours.items():
        for name, value in options.items():
            if there[section][name] != value:
                raise ValueError(
                    f"{str(folder)!r} holds a model of another configuration: {section}.{name} is "
                    f"{there[section][name]!r} there and {value!r} here; choose another folder"
                )
