# SPDX-License-Identifier: Apache-2.0
"""Folders of saved models: ``config.json`` and ``model.safetensors``, compatible with huggingface-hub's mixin."""

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
from scoresde_fast.classifier import Classifier, ClassifierConfig
from scoresde_fast.configs import load_config
from scoresde_fast.configs.loading import read_json
from scoresde_fast.files import make_folder, replacing
from scoresde_fast.model import ScoreModel

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CLASSIFIER = "classifier"
"""The only section of a classifier's configuration; configurations of score models do not have it."""
Sections = Mapping[str, Mapping[str, Any]]


def is_saved(folder: str | Path) -> bool:
    """Return whether ``folder`` contains a complete saved model; the configuration is written last."""
    return all((Path(folder) / name).is_file() for name in (WEIGHTS, CONFIG))


def is_classifier(folder: str | Path) -> bool:
    """Return whether the configuration in ``folder`` is that of a classifier; False if it is unreadable."""
    try:
        return CLASSIFIER in json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError):
        return False


def save(model: ScoreModel, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write ``model`` to ``folder``: trainable weights as ``dtype``, buffers unchanged. Files are written atomically.

    Raises:
        ValueError: the folder contains a classifier, or a model with another configuration.
    """
    folder = Path(folder)
    existing = None
    if is_saved(folder):
        refuse_classifier(folder, folder)
        existing = load_config(folder / CONFIG).to_dict()
    _write(model, model.config.to_dict(), folder, dtype, existing)


def save_classifier(classifier: Classifier, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write ``classifier`` to ``folder``, as `save` does.

    Raises:
        ValueError: the folder contains a score model, or a classifier with another configuration.
    """
    folder = Path(folder)
    existing = {CLASSIFIER: _classifier_config(folder, folder).to_dict()} if is_saved(folder) else None
    _write(classifier, {CLASSIFIER: classifier.config.to_dict()}, folder, dtype, existing)


def load_saved(folder: Path) -> ScoreModel:
    """Return the model in ``folder`` in float32 and evaluation mode; other files in it are ignored.

    Raises:
        ValueError: a file is corrupt, or the weights do not fit the configuration.
        FileNotFoundError: one of the two files is missing.
    """
    _require_saved(folder, "model")
    model = ScoreModel(load_config(folder / CONFIG))
    _read_weights(model, folder)
    return model.eval()


def load_saved_classifier(folder: Path, name: str | Path) -> Classifier:
    """Return the classifier in ``folder``, which the user calls ``name``; raise as `load_saved`."""
    _require_saved(folder, "classifier")
    classifier = Classifier(_classifier_config(folder, name))
    _read_weights(classifier, folder)
    return classifier.eval()


def refuse_classifier(folder: Path, name: str | Path) -> None:
    """Raise ``ValueError`` if ``folder``, which the user calls ``name``, contains a classifier."""
    if is_classifier(folder):
        raise ValueError(
            f"{str(name)!r} is a classifier, not a score model; use load_classifier({str(name)!r}) to guide the "
            "sampling of a model"
        )


def _require_saved(folder: Path, kind: str) -> None:
    if not is_saved(folder):
        raise FileNotFoundError(f"{str(folder)!r} contains no saved {kind}: it needs the files {CONFIG} and {WEIGHTS}")


def _classifier_config(folder: Path, name: str | Path) -> ClassifierConfig:
    path = folder / CONFIG
    try:
        options = read_json(path)
        if CLASSIFIER in options:
            return ClassifierConfig.from_dict(options[CLASSIFIER])
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error
    raise ValueError(
        f"{str(name)!r} is a score model, but a classifier is needed; give 'digits-classifier', or a folder written by "
        "`scoresde-fast train`"
    )


def _write(network: nn.Module, options: Sections, folder: Path, dtype: torch.dtype, existing: Sections | None) -> None:
    """Write ``options`` and weights; raise ``ValueError`` if the folder's ``existing`` options differ."""
    make_folder(folder)
    for section, values in (existing or {}).items():
        for name, theirs in values.items():
            if (ours := options[section][name]) != theirs:
                raise ValueError(
                    f"{str(folder)!r} contains a model with another configuration: {section}.{name} is {theirs!r} "
                    f"there and {ours!r} here; choose another folder"
                )
    trainable = {name for name, weight in network.named_parameters() if weight.requires_grad}
    tensors = {
        name: tensor.detach().to("cpu", dtype if name in trainable else tensor.dtype).contiguous()
        for name, tensor in network.state_dict().items()
    }
    with replacing(folder / WEIGHTS) as file:
        file.write(to_bytes(tensors, metadata={"format": "pt"}))
    with replacing(folder / CONFIG) as file:
        file.write((json.dumps(options, indent=2) + "\n").encode())


def _read_weights(network: nn.Module, folder: Path) -> None:
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{str(folder / WEIGHTS)!r} is not a safetensors file, or is truncated or corrupt") from error
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if problem := misfit(expected, {name: tensor.shape for name, tensor in tensors.items()}):
        raise ValueError(f"{str(folder / WEIGHTS)!r} does not fit the {CONFIG} beside it ({problem})")
    network.load_state_dict(tensors)
