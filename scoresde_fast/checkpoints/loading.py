# SPDX-License-Identifier: Apache-2.0
"""Loading and saving of trained models and classifiers.

`load` and `load_classifier` take names of embedded models, folders, and runs of training; `load` also takes official
checkpoints.  Folders contain ``config.json`` and ``model.safetensors``, as huggingface-hub's mixin writes them, or
several files with an index.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save as to_bytes
from torch import nn

from scoresde_fast.checkpoints.official import copy_official, fitting_presets, misfit, read_official
from scoresde_fast.checkpoints.tensor_files import read_safetensors, require_real
from scoresde_fast.checkpoints.training_states import (
    MODEL,
    State,
    copy_weights,
    is_run,
    is_state,
    newest_state,
    read_state,
    snapshots,
)
from scoresde_fast.classifier import Classifier, ClassifierConfig
from scoresde_fast.configs import ConfigLike, load_config, preset_names
from scoresde_fast.configs.loading import read_json
from scoresde_fast.configs.schema import without_job_options
from scoresde_fast.configs.text_files import parse_json, read_text
from scoresde_fast.errors import unknown_message
from scoresde_fast.files import make_folder, replacing, user_path, write_json
from scoresde_fast.model import ScoreModel

EMBEDDED = Path(__file__).resolve().parent.parent / "embedded"
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
CLASSIFIER = "classifier"
"""The only section of a classifier's configuration; configurations of score models lack it."""
Sections = Mapping[str, Mapping[str, Any]]
Network = TypeVar("Network", ScoreModel, Classifier)


def embedded_names() -> list[str]:
    """Return the names of the score models that come with the package, sorted."""
    return _embedded(classifiers=False)


def embedded_classifiers() -> list[str]:
    """Return the names of the classifiers that come with the package, sorted."""
    return _embedded(classifiers=True)


def load(path_or_name: str | Path, config: ConfigLike | None = None, ema: bool = True) -> ScoreModel:
    """Load a trained model in float32 and evaluation mode.

    Args:
        path_or_name: the name of an embedded model, a saved folder, the folder of a training run (its newest weights)
            or its ``state.pt``, or a checkpoint, see `read_official`. An embedded name takes precedence over a folder
            with the same name; write ``./NAME`` for the folder.
        config: the configuration of a checkpoint, see `load_config`; folders and states contain theirs.
        ema: load the averaged weights of a checkpoint or a state; otherwise the raw ones. A bare state dict has only
            one kind.

    Raises:
        ValueError: the name is unknown or a classifier's; the file is corrupt, contains code, or does not fit
            ``config``; ``config`` is missing for an official checkpoint (the message names the presets that fit).
        FileNotFoundError: the path does not exist.
    """
    path = _embedded_or_path(path_or_name)
    if _has_state(path):
        model = _use_state(path, lambda path, state: _model_of_state(path, state, ema))
    elif path.is_file():
        with torch.device("cpu"):
            return _load_official(path, config, ema)
    elif not path.is_dir():
        raise _not_found(path_or_name)
    else:
        path = _newest_saved(path)
        _refuse_classifier(path, path_or_name)
        _require_saved(path, "model")
        with torch.device("cpu"):  # whatever torch's default device
            model = _with_saved_weights(ScoreModel(load_config(path / CONFIG)), path)
        model.folder = path
    if config is not None and load_config(config) != model.config:
        raise ValueError(
            f"{str(path_or_name)!r} contains its configuration, which differs from the given config; leave out config"
        )
    return model


def load_classifier(path_or_name: str | Path) -> Classifier:
    """Load a trained classifier in float32 and evaluation mode.

    Args:
        path_or_name: the name of an embedded classifier, which takes precedence as in `load`, a folder written by
            `save_classifier`, or the folder of a training run or its ``state.pt``.

    Raises:
        ValueError: the name is unknown, the folder contains a score model, or its files are corrupt or do not fit.
        FileNotFoundError: the path does not exist.
    """
    path = _embedded_or_path(path_or_name)
    if _has_state(path):
        return _use_state(path, _classifier_of_state)
    if path.is_dir():
        path = _newest_saved(path)
        _require_saved(path, "classifier")
        with torch.device("cpu"):
            return _with_saved_weights(Classifier(_classifier_config(path, path_or_name)), path)
    if _is_path(path_or_name):
        raise FileNotFoundError(f"the classifier's folder {str(path_or_name)!r} does not exist")
    raise ValueError(
        unknown_message("classifier", path_or_name, embedded_classifiers()) + ", or give the path of a folder"
    )


def save(model: ScoreModel, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write ``model`` to ``folder``: trainable weights as ``dtype``, buffers unchanged. Files are written atomically.

    Raises:
        ValueError: the folder contains a classifier, or a model with another configuration.
    """
    folder = Path(folder)
    existing = None
    if is_saved(folder):
        _refuse_classifier(folder, folder)
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


def convert(path: str | Path, out: str | Path, config: ConfigLike | None = None, ema: bool = True) -> None:
    """Load the model at ``path`` as `load` does, and save it to the folder ``out``."""
    save(load(path, config, ema), out)


def is_saved(folder: str | Path) -> bool:
    """Return whether ``folder`` contains a complete saved model, of which the configuration is written last."""
    has_config, *has_weights = ((Path(folder) / name).is_file() for name in (CONFIG, WEIGHTS, INDEX))
    return has_config and any(has_weights)


def is_model(path: str | Path) -> bool:
    """Return whether ``path`` is a saved folder, or a training run or one of its states."""
    return is_saved(_newest_saved(Path(path))) or _has_state(Path(path))


def has_classifier(file: Path) -> bool:
    """Return whether a JSON file has a section ``classifier``; False if it cannot be read, which loaders report."""
    try:
        return CLASSIFIER in parse_json(read_text(file))
    except (OSError, TypeError, ValueError):
        return False


def _embedded(*, classifiers: bool) -> list[str]:
    saved = (path for path in EMBEDDED.glob("*") if is_saved(path))
    return sorted(path.name for path in saved if has_classifier(path / CONFIG) == classifiers)


def _embedded_or_path(path_or_name: str | Path) -> Path:
    embedded = path_or_name in (*embedded_names(), *embedded_classifiers())
    return EMBEDDED / path_or_name if embedded else user_path(path_or_name)


def _has_state(path: Path) -> bool:
    """Return whether ``path`` is a state of training, or a folder with one that is not itself a saved model."""
    return (is_run(path) and not is_saved(path)) if path.is_dir() else (path.is_file() and is_state(path))


def _use_state(path: Path, use: Callable[[Path, State], Network]) -> Network:
    """Return ``use(path, state)`` of a state, or of the newest intact one in the folder of a run."""
    return newest_state(path, use) if path.is_dir() else use(path, read_state(path))


def _model_of_state(path: Path, state: State, ema: bool) -> ScoreModel:
    if CLASSIFIER in state["config"]:
        raise _is_classifier(path)
    if state["step"] == 0:
        warnings.warn(f"{path} is the state before the first step: its weights are random", stacklevel=2)
    model = ScoreModel(load_config(state["config"]))
    copy_weights(path, model.network, state, ema=ema)
    return model.eval()


def _classifier_of_state(path: Path, state: State) -> Classifier:
    if CLASSIFIER not in state["config"]:
        raise _is_score_model(path)
    classifier = Classifier(ClassifierConfig.from_dict(state["config"][CLASSIFIER]))
    copy_weights(path, classifier, state, ema=True)
    return classifier.eval()


def _newest_saved(folder: Path) -> Path:
    """Return the newest saved model in the folder of a run whose states were deleted, otherwise ``folder`` itself."""
    candidates = [folder, folder / MODEL, *reversed(snapshots(folder))]
    return next((candidate for candidate in candidates if is_saved(candidate)), folder)


def _load_official(path: Path, config: ConfigLike | None, ema: bool) -> ScoreModel:
    checkpoint = read_official(path)
    if config is None:
        names = " or ".join(f"config={name!r}" for name in fitting_presets(checkpoint.named))
        advice = f"its weights fit {names}" if names else "no preset fits its weights; give config=FILE"
        advice += " (on the command line --config)"
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


def _refuse_classifier(folder: Path, name: str | Path) -> None:
    """Raise ``ValueError`` if ``folder``, which the user calls ``name``, contains a classifier."""
    if has_classifier(folder / CONFIG):
        raise _is_classifier(name)


def _is_classifier(name: str | Path) -> ValueError:
    return ValueError(
        f"{str(name)!r} is a classifier, not a score model; use load_classifier({str(name)!r}) to guide the "
        "sampling of a model"
    )


def _is_score_model(name: str | Path) -> ValueError:
    return ValueError(
        f"{str(name)!r} is a score model, but a classifier is needed; give 'digits-classifier', or a folder "
        "written by `scoresde-fast train`"
    )


def _require_saved(folder: Path, kind: str) -> None:
    if not is_saved(folder):
        raise FileNotFoundError(f"{str(folder)!r} contains no saved {kind}: it needs the files {CONFIG} and {WEIGHTS}")


def _classifier_config(folder: Path, name: str | Path) -> ClassifierConfig:
    """Return the configuration in ``folder``, which the user calls ``name``."""

    def parse(options: Mapping[str, Any]) -> ClassifierConfig | None:
        return ClassifierConfig.from_dict(options[CLASSIFIER]) if CLASSIFIER in options else None

    config = read_json(folder / CONFIG, parse)
    if config is None:
        raise _is_score_model(name)
    return config


def _with_saved_weights(network: Network, folder: Path) -> Network:
    """Read the weights in ``folder`` into ``network`` and return it in evaluation mode."""
    path = next(folder / name for name in (WEIGHTS, INDEX) if (folder / name).is_file())
    tensors = read_safetensors(path)
    if problem := misfit(network.state_dict(), tensors):
        raise ValueError(f"{str(path)!r} does not fit the {CONFIG} beside it ({problem})")
    require_real(path, tensors)
    network.load_state_dict(tensors)
    return network.eval()


def _write(network: nn.Module, options: Sections, folder: Path, dtype: torch.dtype, existing: Sections | None) -> None:
    """Write ``options`` and weights; raise ``ValueError`` if the folder's ``existing`` options differ.

    They may differ in `JOB_OPTIONS`: a model that was trained longer replaces the one before.
    """
    make_folder(folder)
    for section, values in without_job_options(existing or {}).items():
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
    write_json(folder / CONFIG, options, indent=2)
