# SPDX-License-Identifier: Apache-2.0
"""Noise-conditional classifiers on disk: saved folders and the embedded ones."""

from __future__ import annotations

from pathlib import Path

import torch

from scoresde_fast.checkpoints.folder import CLASSIFIER, CONFIG, check_saved, is_saved, read_weights, write
from scoresde_fast.checkpoints.loading import embedded_classifiers, embedded_or_path, is_path
from scoresde_fast.classifier import Classifier, ClassifierConfig
from scoresde_fast.configs.presets import read_json
from scoresde_fast.errors import unknown


def save_classifier(classifier: Classifier, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write ``classifier`` to ``folder``, its weights as ``dtype``.

    A kill at any moment leaves the files of before or the new ones, each whole. Raises ``ValueError`` when the folder
    holds a score model, or a classifier of another configuration.
    """
    folder = Path(folder)
    there = {CLASSIFIER: _config(folder, folder).to_dict()} if is_saved(folder) else None
    write(classifier, {CLASSIFIER: classifier.config.to_dict()}, folder, dtype, there)


def load_classifier(path_or_name: str | Path) -> Classifier:
    """A trained classifier, float32 and in evaluation mode.

    Args:
        path_or_name: the name of an embedded classifier (which wins over a folder of that name: write ``./NAME`` for
            that), or a folder written by `save_classifier` or by training.

    Raises:
        ValueError: an unknown name, a score model's folder, or files that are damaged or do not fit each other.
        FileNotFoundError: nothing is there.
    """
    folder = embedded_or_path(path_or_name)
    if not folder.is_dir():
        if is_path(path_or_name):
            raise FileNotFoundError(f"there is no classifier's folder {str(path_or_name)!r}")
        raise ValueError(unknown("classifier", path_or_name, embedded_classifiers()) + ", or give a folder's path")
    check_saved(folder, "classifier")
    classifier = Classifier(_config(folder, path_or_name))
    read_weights(classifier, folder)
    return classifier.eval()


def _config(folder: Path, name: str | Path) -> ClassifierConfig:
    path = folder / CONFIG
    try:
        options = read_json(path)
        if CLASSIFIER in options:
            return ClassifierConfig.from_dict(options[CLASSIFIER])
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error
    raise ValueError(
        f"{str(name)!r} is a score model, and a classifier is needed: {' or '.join(embedded_classifiers())}, or the "
        "folder of one that `scoresde-fast train` made"
    )
