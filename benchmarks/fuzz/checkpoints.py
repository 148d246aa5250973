# SPDX-License-Identifier: Apache-2.0
"""Wild checkpoints: damaged files, and weights with other names, shapes, types and values."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import scoresde_fast as sf
from benchmarks.fuzz.cases import Case, Outcome, judged
from benchmarks.fuzz.sets import PLACE_TAKERS, damage
from scoresde_fast.checkpoints import load_classifier, save, save_classifier
from scoresde_fast.checkpoints.official import official_weights
from scoresde_fast.classifier import Classifier, ClassifierConfig
from scoresde_fast.configs import load_config
from scoresde_fast.training.trainer import Trainer
from tests.support.official_checkpoints import SMALL, official_file

RECIPE: dict[str, Any] = {
    "model": {"name": "ncsnpp", "nf": 8, "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": []},
    "data": {"dataset": "digits", "image_size": 16, "num_channels": 3, "centered": True, "random_flip": False},
    "training": {"sde": "vpsde", "batch_size": 4, "n_iters": 2, "snapshot_freq": 1},
    "sampling": {"steps": 2},
}
Weights = dict[str, Tensor]


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def _integers(tensor: Tensor) -> Tensor:
    return torch.ones(tensor.shape, dtype=torch.int64)


EDITS: dict[str, Callable[[Tensor], Any]] = {
    "int64": _integers,
    "bool": lambda tensor: tensor > 0,
    "complex64": lambda tensor: tensor.to(torch.complex64),
    "uint8": lambda tensor: tensor.to(torch.uint8),
    "NaN": lambda tensor: torch.full_like(tensor, torch.nan),
    "one infinity": lambda tensor: torch.cat([tensor.flatten()[1:], torch.tensor([torch.inf])]).reshape(tensor.shape),
    "a further dimension": lambda tensor: tensor[None].contiguous(),
    "no elements": lambda tensor: tensor.flatten()[:0].contiguous(),
    "a row too many": lambda tensor: torch.cat([tensor, tensor[:1]]) if tensor.ndim else tensor[None],
}
"""What may become of a tensor; every loader must refuse it."""
PICKLED_EDITS: dict[str, Callable[[Tensor], Any]] = {
    **EDITS,
    "None": lambda tensor: None,
    "a list": lambda tensor: tensor.flatten().tolist(),
    "a text": lambda tensor: "weights",
    "10^12 repeated elements": lambda tensor: torch.zeros(1).expand(10**12),
    "a sparse tensor of 10^12 elements": lambda tensor: torch.sparse_coo_tensor(
        torch.tensor([[0]]), torch.tensor([1.0]), (10**12,)
    ),
    "on the meta device": lambda tensor: tensor.to("meta"),
    "quantised": lambda tensor: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
    "code": lambda tensor: _Payload(),
}
"""The same for files of PyTorch, which have other objects too."""


def checkpoints(random: Random, count: int, shared: Path) -> Iterator[Case]:
    """Damaged files, edited weights, and other contents, for every file with weights."""
    targets = _targets(shared)
    for index in range(count):
        target = targets[index % len(targets)]
        action = random.choice((target.damaged, target.damaged, target.edited, target.edited, target.replaced))
        yield action(random)


class _Target:
    """A file with weights, and how it is loaded.

    Args:
        name: for the table.
        file: the whole file; the rest of its folder belongs to it.
        load: loads it from a folder, and returns the weights.
    """

    edits = EDITS

    def __init__(self, name: str, file: Path, load: Callable[[Path], Weights]) -> None:
        self.name, self.file, self.load = name, file, load
        self.content = file.read_bytes()
        self.weights = load(file.parent)

    def damaged(self, random: Random) -> Case:
        what, _, content = damage(random, self.content)
        # No format guards the bytes of a weight; what an end that is missing changes must be noticed.
        accepted = self.unchanged if what.startswith("cut") else self.finite
        return self._case("damaged", what, lambda file: file.write_bytes(content), accepted)

    def replaced(self, random: Random) -> Case:
        what = random.choice(list(PLACE_TAKERS))

        def replace(file: Path) -> None:
            file.unlink()
            PLACE_TAKERS[what](file)

        return self._case("replaced", what, replace, self.unchanged)

    def edited(self, random: Random) -> Case:
        names = self.names()
        name, edit = random.choice(names), random.choice(["renamed", "left out", "prefixed", *self.edits])
        return self._case("edited", f"{name}: {edit}", lambda file: self.edit(file, name, edit), self.unchanged)

    def names(self) -> list[str]:
        """Return the names of the tensors in the file."""
        return list(load_file(self.file))

    def edit(self, file: Path, name: str, edit: str) -> None:
        """Change a tensor of the file."""
        save_file(_changed(load_file(file), name, edit, self.edits), file)

    def finite(self, weights: Any) -> str:
        """Accept weights without NaN and infinity."""
        return "" if all(weight.isfinite().all() for weight in weights.values()) else "NaN or infinity accepted"

    def unchanged(self, weights: Any) -> str:
        """Accept the weights of the whole file."""
        if Path("executed").exists():
            return "code was executed"
        same = all(torch.equal(weight, self.weights[name]) for name, weight in weights.items())
        return "" if same else "other weights accepted"

    def _case(self, place: str, what: str, change: Callable[[Path], object], accepted: Callable[[Any], str]) -> Case:
        def run(folder: Path) -> Outcome:
            shutil.copytree(self.file.parent, folder / "whole")
            change(folder / "whole" / self.file.name)
            return judged(lambda: self.load(folder / "whole"), accepted)

        return Case(f"{self.name}: {place}", what, run)


class _Pickled(_Target):
    """A file of `torch.save`; ``sections`` lead to the mapping of its weights."""

    edits = PICKLED_EDITS

    def __init__(self, name: str, file: Path, load: Callable[[Path], Weights], section: str) -> None:
        self.section = section
        super().__init__(name, file, load)

    def names(self) -> list[str]:
        return list(torch.load(self.file)[self.section])

    def edit(self, file: Path, name: str, edit: str) -> None:
        content = torch.load(file)
        content[self.section] = _changed(content[self.section], name, edit, self.edits)
        torch.save(content, file)

    def replaced(self, random: Random) -> Case:
        whole = torch.load(self.file)
        contents: dict[str, Callable[[], Any]] = {
            "{}": lambda: {},
            "a list": lambda: [1, 2],
            "a number": lambda: 3,
            "a tensor": lambda: torch.zeros(3),
            "the bare weights": lambda: whole[self.section],
            "only the weights": lambda: {self.section: whole[self.section]},
            "weights of None": lambda: {**whole, self.section: None},
            "weights in a list": lambda: {**whole, self.section: list(whole[self.section].values())},
            "numbers as names": lambda: {**whole, self.section: dict(enumerate(whole[self.section].values()))},
            "no averages": lambda: {**whole, "ema": {}},
            "averages of None": lambda: {**whole, "ema": None},
            "an average too few": lambda: {**whole, "ema": _fewer(whole["ema"])},
            "sections left out": lambda: dict(list(whole.items())[:1]),
            "code": lambda: {**whole, "more": _Payload()},
            "200 nested lists": lambda: {**whole, "more": _nested(200)},
        }
        what = random.choice([*contents, *PLACE_TAKERS])
        if what in PLACE_TAKERS:
            return super().replaced(random)
        # Bare weights are a form of their own, with one kind of weights.
        accepted = self.finite if what == "the bare weights" else self.unchanged
        return self._case("replaced", what, lambda file: torch.save(contents[what](), file), accepted)


def _fewer(averages: dict[str, Any]) -> dict[str, Any]:
    return {name: value[:-1] if isinstance(value, list) else value for name, value in averages.items()}


def _nested(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


def _changed(weights: Weights, name: str, edit: str, edits: dict[str, Callable[[Tensor], Any]]) -> dict[str, Any]:
    changed: dict[str, Any] = dict(weights)
    value = changed.pop(name)
    if edit == "renamed":
        changed[f"{name}_"] = value
    elif edit == "prefixed":
        return {f"_orig_mod.{each}": tensor for each, tensor in weights.items()}
    elif edit != "left out":
        changed[name] = edits[edit](value)
    return changed


def _targets(shared: Path) -> list[_Target]:
    """Write a whole file of each form, and return the forms."""
    torch.manual_seed(0)
    save(sf.create(RECIPE), shared / "model")
    classifier = ClassifierConfig(image_shape=(3, 16, 16), classes=("a", "b"), low=0.01, high=100.0, widths=(8, 16))
    save_classifier(Classifier(classifier), shared / "classifier")
    (shared / "official").mkdir()
    official = official_file(shared / "official" / "checkpoint.pth")
    (shared / "official" / "config.json").write_text(json.dumps(SMALL))
    trainer = Trainer(load_config(RECIPE), shared / "run")
    trainer.save()

    def load_official(folder: Path, ema: bool) -> Weights:
        model = sf.load(folder / official.name, config=str(folder / "config.json"), ema=ema)
        return official_weights(model.network)

    return [
        _Target("saved folder", shared / "model" / "model.safetensors", lambda folder: sf.load(folder).state_dict()),
        _Target("classifier", shared / "classifier" / "model.safetensors",
                lambda folder: load_classifier(folder).state_dict()),
        _Pickled("official .pth", official, partial(load_official, ema=True), "model"),
        _Pickled("official .pth, raw", official, partial(load_official, ema=False), "model"),
        _Pickled("state.pt", trainer.state_path,
                 lambda folder: Trainer(load_config(RECIPE), folder).network.state_dict(), "network"),
    ]  # fmt: skip
