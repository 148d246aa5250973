# SPDX-License-Identifier: Apache-2.0
"""Loading of trained models and classifiers from embedded names, saved folders and official checkpoints."""

from __future__ import annotations

from pathlib import Path

from scoresde_fast.checkpoints import folder
from scoresde_fast.checkpoints.official import copy_official, read_official
from scoresde_fast.checkpoints.weights import fitting_presets
from scoresde_fast.classifier import Classifier
from scoresde_fast.configs import ConfigLike, load_config, preset_names
from scoresde_fast.errors import unknown_message
from scoresde_fast.model import ScoreModel

EMBEDDED = Path(__file__).resolve().parent.parent / "embedded"


def embedded_names() -> list[str]:
    """Return the names of the score models that come with the package, sorted."""
    return _embedded(classifiers=False)


def embedded_classifiers() -> list[str]:
    """Return the names of the classifiers that come with the package, sorted."""
    return _embedded(classifiers=True)


def load(path_or_name: str | Path, config: ConfigLike | None = None, ema: bool = True) -> ScoreModel:
    """Load a trained model in evaluation mode.

    Args:
        path_or_name: the name of an embedded model, a saved folder, or an official ``.pth`` checkpoint. An embedded
            name takes precedence over a folder with the same name; write ``./NAME`` for the folder.
        config: the configuration of an official checkpoint, see `load_config`; saved folders contain theirs.
        ema: load the averaged weights of an official checkpoint; otherwise the raw ones.

    Raises:
        ValueError: the name is unknown; the file is corrupt, contains code, or does not fit ``config``; ``config`` is
            missing for an official checkpoint (the message names the presets that fit); it is a classifier.
        FileNotFoundError: the path does not exist.
    """
    path = _embedded_or_path(path_or_name)
    if path.is_file():
        return _load_file(path, config, ema)
    if not path.is_dir():
        raise _not_found(path_or_name)
    folder.refuse_classifier(path, path_or_name)
    model = folder.load_saved(path)
    if config is not None and load_config(config) != model.config:
        raise ValueError(
            f"{str(path_or_name)!r} contains its configuration, which differs from the given one; leave out config"
        )
    return model


def load_classifier(path_or_name: str | Path) -> Classifier:
    """Load a trained classifier in float32 and evaluation mode.

    Args:
        path_or_name: the name of an embedded classifier, or a folder written by `save_classifier` or by training. An
            embedded name takes precedence over a folder with the same name; write ``./NAME`` for the folder.

    Raises:
        ValueError: the name is unknown, the folder contains a score model, or its files are corrupt or do not fit.
        FileNotFoundError: the path does not exist.
    """
    path = _embedded_or_path(path_or_name)
    if path.is_dir():
        return folder.load_saved_classifier(path, path_or_name)
    if _is_path(path_or_name):
        raise FileNotFoundError(f"the classifier's folder {str(path_or_name)!r} does not exist")
    raise ValueError(
        unknown_message("classifier", path_or_name, embedded_classifiers()) + ", or give the path of a folder"
    )


def convert(path: str | Path, out: str | Path, config: ConfigLike | None = None, ema: bool = True) -> None:
    """Load the model at ``path`` as `load` does, and save it to the folder ``out``."""
    folder.save(load(path, config, ema), out)


def _embedded(*, classifiers: bool) -> list[str]:
    saved = (path for path in EMBEDDED.glob("*") if folder.is_saved(path))
    return sorted(path.name for path in saved if folder.is_classifier(path) == classifiers)


def _embedded_or_path(path_or_name: str | Path) -> Path:
    embedded = path_or_name in (*embedded_names(), *embedded_classifiers())
    return EMBEDDED / path_or_name if embedded else Path(path_or_name)


def _load_file(path: Path, config: ConfigLike | None, ema: bool) -> ScoreModel:
    checkpoint = read_official(path)
    if config is None:
        names = " or ".join(f"config={name!r}" for name in fitting_presets(checkpoint.model))
        advice = f"its weights fit {names}" if names else "no preset fits its weights; give config=FILE.json"
        raise ValueError(f"{str(path)!r} does not contain its configuration: {advice}")
    model = ScoreModel(config)
    copy_official(model, checkpoint, ema)
    return model.eval()


def _not_found(path_or_name: str | Path) -> Exception:
    if path_or_name in preset_names():
        return ValueError(
            f"{path_or_name!r} is a preset, which has no weights; create({path_or_name!r}) builds a model with fresh "
            "weights, and load(PATH, config=...) reads a checkpoint"
        )
    if _is_path(path_or_name):
        return FileNotFoundError(f"the checkpoint file or folder {str(path_or_name)!r} does not exist")
    return ValueError(
        unknown_message("model", path_or_name, embedded_names()) + ", or give the path of a folder or checkpoint"
    )


def _is_path(path_or_name: str | Path) -> bool:
    """Return whether the argument can only be a path: it has a suffix or several parts."""
    path = Path(path_or_name)
    return isinstance(path_or_name, Path) or bool(path.suffix) or len(path.parts) > 1
