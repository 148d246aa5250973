# SPDX-License-Identifier: Apache-2.0
"""One way in for every trained model: an embedded one by name, a saved folder, or an official checkpoint."""

from __future__ import annotations

from pathlib import Path

from scoresde_fast.checkpoints import folder
from scoresde_fast.checkpoints.fitting import fitting_presets
from scoresde_fast.checkpoints.official import copy_official, read_official
from scoresde_fast.configs import ConfigLike, load_config, preset_names
from scoresde_fast.errors import unknown
from scoresde_fast.model import ScoreModel

EMBEDDED = Path(__file__).resolve().parent.parent / "embedded"


def embedded_names() -> list[str]:
    """Names of the score models that come with the package, sorted."""
    return _embedded(classifiers=False)


def embedded_classifiers() -> list[str]:
    """Names of the classifiers that come with the package, sorted."""
    return _embedded(classifiers=True)


def load(path_or_name: str | Path, config: ConfigLike | None = None, ema: bool = True) -> ScoreModel:
    """A trained model in evaluation mode.

    Args:
        path_or_name: the name of an embedded model (which wins over a folder of that name: write ``./NAME`` for that),
            a folder written by ``save_pretrained`` or ``convert``, or an official ``.pth`` checkpoint.
        config: the configuration of an official checkpoint, see ``load_config``; the others carry their own.
        ema: load the averaged weights of an official checkpoint, else the raw ones.

    Raises:
        ValueError: an unknown name; a file that is damaged, holds code, or does not fit ``config``; an official
            checkpoint without ``config`` (the sentence says which presets fit); a classifier.
        FileNotFoundError: nothing is there.
    """
    path = embedded_or_path(path_or_name)
    if path.is_file():
        return _load_file(path, config, ema)
    if not path.is_dir():
        raise _not_there(path_or_name)
    folder.refuse_classifier(path, path_or_name)
    model = folder.load(path)
    if config is not None and load_config(config) != model.config:
        raise ValueError(
            f"{str(path_or_name)!r} has its own configuration, which differs from the given one: leave that out"
        )
    return model


def embedded_or_path(path_or_name: str | Path) -> Path:
    """The folder of an embedded model or classifier of that name, else the path that ``path_or_name`` is."""
    embedded = path_or_name in (*embedded_names(), *embedded_classifiers())
    return EMBEDDED / path_or_name if embedded else Path(path_or_name)


def is_path(path_or_name: str | Path) -> bool:
    """Whether this can only be meant as a path: with a suffix, or with a folder."""
    path = Path(path_or_name)
    return isinstance(path_or_name, Path) or bool(path.suffix) or len(path.parts) > 1


def convert(path: str | Path, out: str | Path, config: ConfigLike | None = None, ema: bool = True) -> None:
    """Write the model that `load` finds at ``path`` as the folder ``out`` of configuration and weights."""
    folder.save(load(path, config, ema), out)


def _embedded(*, classifiers: bool) -> list[str]:
    saved = (path for path in EMBEDDED.glob("*") if folder.is_saved(path))
    return sorted(path.name for path in saved if folder.is_classifier(path) == classifiers)


def _load_file(path: Path, config: ConfigLike | None, ema: bool) -> ScoreModel:
    checkpoint = read_official(path)
    if config is None:
        names = " or ".join(f"config={name!r}" for name in fitting_presets(checkpoint.model))
        advice = f"its weights fit {names}" if names else "no preset fits its weights: give config=FILE.json"
        raise ValueError(f"{str(path)!r} does not say its configuration; {advice}")
    model = ScoreModel(config)
    copy_official(model, checkpoint, ema)
    return model.eval()


def _not_there(path_or_name: str | Path) -> Exception:
    if path_or_name in preset_names():
        return ValueError(
            f"{path_or_name!r} is a preset, which has no weights: create({path_or_name!r}) makes fresh ones, "
            "and load(PATH, config=...) reads a checkpoint"
        )
    if is_path(path_or_name):
        return FileNotFoundError(f"there is no checkpoint file and no folder {str(path_or_name)!r}")
    return ValueError(unknown("model", path_or_name, embedded_names()) + ", or give a folder's or a checkpoint's path")
