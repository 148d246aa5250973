# SPDX-License-Identifier: Apache-2.0
"""Recipes of noise-conditional classifiers: a whole run, and the diffusions whose noise it is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scoresde_fast.classifier import ClassifierConfig
from scoresde_fast.configs import OptimConfig
from scoresde_fast.configs.presets import read_json
from scoresde_fast.configs.schema import plain, read_section
from scoresde_fast.errors import unknown
from scoresde_fast.model import build_sde
from scoresde_fast.sdes import SDE, Array
from scoresde_fast.training.recipes import FOLDER, classifier_recipe_names, load_recipe

SECTIONS = ("classifier", "models", "data", "training", "optim")


@dataclass(frozen=True)
class LabelledData:
    """The images that a classifier learns from, those that it is tried on, and what is done to the former.

    Attributes:
        dataset: a source of images with labels, see `open_images`.
        held_out: another, or None.
        random_flip: mirror half of the images.
        shift: px by which images are moved at most, either way.
        shuffle_channels: share of the images whose channels are shuffled, where colour must not tell the class alone.
    """

    dataset: str
    held_out: str | None = None
    random_flip: bool = False
    shift: int = 0
    shuffle_channels: float = 0.0

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise ValueError(f"data.shift is {self.shift}; it must not be negative")
        if not 0 <= self.shuffle_channels <= 1:
            raise ValueError(f"data.shuffle_channels is {self.shuffle_channels}; it is a share, from 0 to 1")


@dataclass(frozen=True)
class ClassifierTraining:
    """How long, in which batches, and the decay of the weights' moving average."""

    batch_size: int = 64
    n_iters: int = 4000
    ema_rate: float = 0.999
    log_freq: int = 50
    snapshot_freq: int = 500

    def __post_init__(self) -> None:
        for name in ("batch_size", "n_iters", "log_freq", "snapshot_freq"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.ema_rate < 1:
            raise ValueError(f"training.ema_rate is {self.ema_rate}; it must be at least 0 and below 1")


@dataclass(frozen=True)
class Diffusion:
    """An SDE, the time at which its sampling stops, and the width of its data's range over that of [-1, 1]."""

    sde: SDE
    eps: float
    width: float

    def noise(self, u: Array) -> Array:
        """Deviation of the noise at the times that ``u`` (n,) in [0, 1] are, from the last to the first of sampling."""
        return self.sde.observation(self.eps + u * (self.sde.T - self.eps)).std / self.width


@dataclass(frozen=True)
class ClassifierRecipe:
    """A whole run: the classifier, the models that it is to guide, data, training and optimiser.

    Attributes:
        models: names of configurations, as `load_recipe` takes them; their SDEs decide the noise.
    """

    classifier: ClassifierConfig
    models: tuple[str, ...]
    data: LabelledData
    training: ClassifierTraining = field(default_factory=ClassifierTraining)
    optim: OptimConfig = field(default_factory=OptimConfig)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> ClassifierRecipe:
        """Build from the sections of a JSON file; the noise of ``classifier`` is that of ``models``.

        Raises:
            ValueError: for a mistake, naming it and what is allowed.
        """
        for name in options:
            if name not in SECTIONS:
                raise ValueError(unknown("section of a classifier's recipe", name, SECTIONS))
        models = options.get("models")
        if not isinstance(models, list | tuple) or not models:
            raise ValueError(f"models is {models!r}; it must list the names of the models that are to be guided")
        ends = np.concatenate([diffusion(name).noise(np.array([0.0, 1.0])) for name in models])
        noise = {"low": float(ends.min()), "high": float(ends.max())}
        classifier = options.get("classifier")
        return cls(
            ClassifierConfig.from_dict({**classifier, **noise} if isinstance(classifier, Mapping) else classifier),
            tuple(models),
            read_section("data", LabelledData, options.get("data", {})),
            read_section("training", ClassifierTraining, options.get("training", {})),
            read_section("optim", OptimConfig, options.get("optim", {})),
        )

    def to_dict(self) -> dict[str, Any]:
        """The options as plain values that JSON can hold."""
        sections = {name: plain(getattr(self, name)) for name in SECTIONS if name != "models"}
        return {**sections, "models": list(self.models)}


def diffusion(model: str) -> Diffusion:
    """That of the model whose configuration has this name; raises as `load_recipe`, and where it is of points."""
    config = load_recipe(model)
    if not config.data.is_image:
        raise ValueError(f"models has {model!r}, a model of points; classifiers are of images")
    sde, eps = build_sde(config), config.sampling.eps
    return Diffusion(sde, sde.sampling_eps if eps is None else eps, 1.0 if config.data.centered else 0.5)


def load_classifier_recipe(name: str) -> ClassifierRecipe:
    """The recipe of an embedded classifier by name, or a JSON file with one.

    Raises:
        ValueError: nothing has that name, or the file is no recipe of a classifier; names the mistake.
        FileNotFoundError: there is no such file.
    """
    path = FOLDER / f"{name}.json" if name in classifier_recipe_names() else Path(name)
    if path.suffix != ".json":
        raise ValueError(unknown("recipe of a classifier", name, classifier_recipe_names()) + ", or give a .json file")
    try:
        return ClassifierRecipe.from_dict(read_json(path))
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error
