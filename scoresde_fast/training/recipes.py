# SPDX-License-Identifier: Apache-2.0
"""Training recipes: a `Config` for a score model, a `ClassifierRecipe` for a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from scoresde_fast.checkpoints.loading import has_classifier
from scoresde_fast.classifier import ClassifierConfig
from scoresde_fast.configs import Config, OptimConfig, load_config, preset_names
from scoresde_fast.configs.loading import is_config_file, read_json
from scoresde_fast.configs.options import Length, Options, Range
from scoresde_fast.configs.schema import Count, Fraction
from scoresde_fast.errors import unknown_message
from scoresde_fast.model import build_sde
from scoresde_fast.sdes import SDE, Array

FOLDER = Path(__file__).resolve().parent / "recipes"
SECTIONS = ("classifier", "models", "data", "training", "optim")


def recipe_names() -> list[str]:
    """Return the names of the score models' recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json") if not has_classifier(path))


def classifier_recipe_names() -> list[str]:
    """Return the names of the classifiers' recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json") if has_classifier(path))


def is_classifier_recipe(name: str) -> bool:
    """Return whether ``name`` is a classifier's recipe, or a JSON file with a ``classifier`` section."""
    return name in classifier_recipe_names() or (name.endswith(".json") and has_classifier(Path(name)))


def load_recipe(name: str) -> Config:
    """Load the configuration of a score model from a recipe's name, a preset's name, or a configuration file.

    Raises:
        ValueError: the name is unknown, or the file is not a configuration.
    """
    if name in recipe_names():
        return load_config(FOLDER / f"{name}.json")
    if is_classifier_recipe(name):
        raise ValueError(f"{name!r} is the recipe of a classifier; choose one of a score model")
    if is_config_file(name) or name in preset_names():
        return load_config(name)
    names = [*recipe_names(), *classifier_recipe_names(), *preset_names()]
    raise ValueError(unknown_message("recipe", name, names) + ", or give a .json, .py or .txt file")


def load_classifier_recipe(name: str) -> ClassifierRecipe:
    """Load a classifier's recipe by name or from a JSON file.

    Raises:
        ValueError: the name is unknown, or the file is not a valid recipe of a classifier.
        FileNotFoundError: the file does not exist.
    """
    path = FOLDER / f"{name}.json" if name in classifier_recipe_names() else Path(name)
    if path.suffix != ".json":
        raise ValueError(
            unknown_message("recipe of a classifier", name, classifier_recipe_names()) + ", or give a .json file"
        )
    return read_json(path, ClassifierRecipe.from_dict)


@dataclass(frozen=True)
class LabelledData(Options, section="data"):
    """The training images of a classifier, their augmentation, and the held-out images.

    Attributes:
        dataset: a source of labelled images, see `open_images`.
        held_out: a source of images for the recorded accuracy, or None.
        random_flip: mirror half of the images.
        shift: maximum random shift in each direction, in pixels.
        shuffle_channels: fraction of images with shuffled channels, so that colour does not identify the class.
    """

    dataset: Annotated[str, Length(1, 1000)]
    held_out: Annotated[str | None, Length(1, 1000)] = None
    random_flip: bool = False
    shift: Annotated[int, Range(0, 4096)] = 0
    shuffle_channels: Annotated[float, Range(0, 1)] = 0.0


@dataclass(frozen=True)
class ClassifierTraining(Options, section="training"):
    """The length, batch size, logging and saving of a classifier's run, and the decay of the weights' average."""

    batch_size: Annotated[int, Range(1, 10**6)] = 64
    n_iters: Count = 4000
    ema_rate: Fraction = 0.999
    log_freq: Count = 50
    snapshot_freq: Count = 500
    snapshot_freq_for_preemption: Count = 10000


@dataclass(frozen=True)
class ClassifierRecipe:
    """The recipe of a classifier: its network, the models that it guides, data, training and optimiser.

    Attributes:
        models: names of configurations for `load_recipe`; their SDEs determine the range of the noise.
    """

    classifier: ClassifierConfig
    models: tuple[str, ...]
    data: LabelledData
    training: ClassifierTraining = field(default_factory=ClassifierTraining)
    optim: OptimConfig = field(default_factory=OptimConfig)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> ClassifierRecipe:
        """Build a recipe from the sections of a JSON file.

        Raises:
            ValueError: a section or an option is unknown or invalid; the message lists the valid values.
        """
        for name in options:
            if name not in SECTIONS:
                raise ValueError(unknown_message("section of a classifier's recipe", name, SECTIONS))
        models = options.get("models")
        if not isinstance(models, list | tuple) or not models:
            raise ValueError(f"models is {models!r}; it must list the names of the models to guide")
        limits = np.concatenate([NoiseRange.of_model(name).std(np.array([0.0, 1.0])) for name in models])
        classifier = options.get("classifier")
        if isinstance(classifier, Mapping):
            classifier = {**classifier, "low": float(limits.min()), "high": float(limits.max())}
        return cls(
            ClassifierConfig.from_dict(classifier),
            tuple(models),
            LabelledData.from_dict(options.get("data", {})),
            ClassifierTraining.from_dict(options.get("training", {})),
            OptimConfig.from_dict(options.get("optim", {})),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        sections = {name: getattr(self, name).to_dict() for name in SECTIONS if name != "models"}
        return {**sections, "models": list(self.models)}


@dataclass(frozen=True)
class NoiseRange:
    """The noise levels of sampling: an SDE, its final time, and half the width of the data's range."""

    sde: SDE
    eps: float
    width: float

    @classmethod
    def of_model(cls, name: str) -> NoiseRange:
        """Return the noise range of the model ``name``; raise ValueError if it is unknown or a model of points."""
        config = load_recipe(name)
        if not config.data.is_image:
            raise ValueError(f"models contains {name!r}, a model of points; classifiers are for images")
        sde, eps = build_sde(config), config.sampling.eps
        return cls(sde, sde.sampling_eps if eps is None else eps, 1.0 if config.data.centered else 0.5)

    def std(self, u: Array) -> Array:
        """Return the noise std at times eps + u (T - eps), for images scaled to [-1, 1] and ``u`` (n,) in [0, 1]."""
        return self.sde.observation(self.eps + u * (self.sde.T - self.eps)).std / self.width
