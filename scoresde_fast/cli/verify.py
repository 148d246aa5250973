# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast verify``: checking and repairing a set of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from tyro.conf import Positional, arg

from scoresde_fast.cli.options import NO_DEFAULT, BatchSize, Device, Flag
from scoresde_fast.cli.process import process_device

if TYPE_CHECKING:
    from scoresde_fast.classifier import Classifier
    from scoresde_fast.model import ScoreModel
    from scoresde_fast.sampler import Sampler

Trained = TypeVar("Trained", "ScoreModel", "Classifier")

NOT_SOUND = 1
"""Exit code if an image is missing, damaged, duplicate or foreign."""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check every image of a set that sample wrote, for missing, damaged, duplicate and foreign images.

    The exit code is 1 if there are any. Without --repair nothing is changed; with it, only missing, damaged and
    duplicate images are sampled again.
    """

    out: Positional[Path]
    """The set, as given to --out of sample: a folder, .npz, .zip, .tar or .npy."""
    repair: Flag = False
    """Sample missing, damaged and duplicate images again."""
    model: Annotated[str | None, arg(help_behavior_hint="(default: the embedded model of the set)")] = None
    """For --repair: the model of the set."""
    classifier: Annotated[str | None, arg(help_behavior_hint="(default: the embedded classifier of the set)")] = None
    """For --repair of a set with classes: the classifier that guided it."""
    config: Annotated[str | None, NO_DEFAULT] = None
    """For a .pth: its preset, or a JSON file."""
    raw: Flag = False
    """For a .pth: load the raw weights instead of their moving average."""
    batch_size: BatchSize = 64
    device: Device = "cpu"

    def run(self) -> None:
        from tqdm import tqdm

        from scoresde_fast.generate.verify import repair, verify

        with tqdm(unit=" images", disable=None, leave=False) as bar:

            def on_image(total: int) -> None:
                bar.total = total
                bar.update()

            findings = verify(self.out, on_image)
        print(findings)
        if self.repair and len(findings.repairable):
            print(repair(self._sampler(), self.out, findings, batch_size=self.batch_size))
            findings = verify(self.out)
            print(findings)
        if not findings.sound:
            raise SystemExit(NOT_SOUND)

    def _sampler(self) -> Sampler:
        """Return the sampler that the manifest of the set records."""
        import scoresde_fast as sf
        from scoresde_fast.conditions.descriptions import described_conditions
        from scoresde_fast.devices import keep_freed_memory
        from scoresde_fast.generate.verify import read_set
        from scoresde_fast.sampler import described_options

        keep_freed_memory()
        described = read_set(self.out)[1].configuration["sampler"]
        # First: sets with conditions that cannot be rebuilt are refused before a model is loaded.
        conditions = described_conditions(described.get("condition", ()), self._classifier)
        model = self._model(described["model"]["weights_sha256"])
        options = {**described_options(described), "device": process_device(self.device), "batch_size": self.batch_size}
        return sf.Sampler(model, condition=conditions, **options)

    def _model(self, sha256: str) -> ScoreModel:
        import scoresde_fast as sf
        from scoresde_fast.checkpoints import embedded_names

        if self.model is not None:
            return sf.load(self.model, config=self.config, ema=not self.raw)
        return self._embedded("model", embedded_names(), sf.load, sha256)

    def _classifier(self, sha256: str) -> Classifier:
        from scoresde_fast.checkpoints import embedded_classifiers, load_classifier

        if self.classifier is not None:
            return load_classifier(self.classifier)
        return self._embedded("classifier", embedded_classifiers(), load_classifier, sha256)

    def _embedded(self, kind: str, names: Sequence[str], load: Callable[[str], Trained], sha256: str) -> Trained:
        """Return the embedded model or classifier with these weights; raise ValueError if there is none."""
        from scoresde_fast.fingerprint import weights_sha256

        for name in names:
            if weights_sha256(trained := load(name)) == sha256:
                return trained
        raise ValueError(f"the {kind} of {self.out} is not an embedded one; give it by --{kind}")
