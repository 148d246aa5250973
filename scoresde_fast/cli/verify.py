# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast verify``: whether a set of samples is whole, and what is missing made again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from tyro.conf import Positional, arg

from scoresde_fast.cli.groups import NO_DEFAULT, Flag, process_device

if TYPE_CHECKING:
    from scoresde_fast.classifier import Classifier
    from scoresde_fast.model import ScoreModel
    from scoresde_fast.sampler import Sampler

Trained = TypeVar("Trained", "ScoreModel", "Classifier")

NOT_SOUND = 1
"""The exit code when something is wrong."""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Look at every image of a set that sample made: missing, damaged, equal and foreign ones. Exit code 1 if any are.

    Nothing is changed, but with --repair what is missing, damaged or equal is made again, and only that.
    """

    out: Positional[Path]
    """The set, by the name that --out had: a folder, .npz, .zip, .tar or .npy."""
    repair: Flag = False
    """Make again what is missing, damaged or equal."""
    model: Annotated[str | None, arg(help_behavior_hint="(default: the embedded model that made the set)")] = None
    """For --repair: the model that made the set."""
    classifier: Annotated[str | None, arg(help_behavior_hint="(default: the embedded one that guided the set)")] = None
    """For --repair of a set of classes: the classifier that guided it."""
    config: Annotated[str | None, NO_DEFAULT] = None
    """For a .pth: the preset it belongs to, or a JSON file."""
    raw: Flag = False
    """For a .pth: the raw weights instead of their moving average."""
    batch_size: int = 64
    """Images computed together."""
    device: str = "cpu"
    """cpu, cuda or cuda:1."""

    def run(self) -> None:
        from tqdm import tqdm

        from scoresde_fast.generate.verify import repair, verify

        with tqdm(unit=" images", disable=None, leave=False) as bar:

            def on_image(of: int) -> None:
                bar.total = of
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
        """The sampler that the set's description tells of."""
        import scoresde_fast as sf
        from scoresde_fast.conditions.classes import described_conditions
        from scoresde_fast.devices import keep_freed_memory
        from scoresde_fast.generate.verify import read_set
        from scoresde_fast.sampler.options import described_options

        keep_freed_memory()
        described = read_set(self.out)[1].configuration["sampler"]
        # What cannot be made again is said before a model is looked for.
        conditions = described_conditions(described.get("condition", ()), self._classifier)
        model = self._model(described["model"]["weights_sha256"])
        options = {**described_options(described), "device": process_device(self.device), "batch_size": self.batch_size}
        return sf.Sampler(model, condition=conditions, **options)

    def _model(self, sha256: str) -> ScoreModel:
        """The model named, or the embedded one with these weights."""
        import scoresde_fast as sf
        from scoresde_fast.checkpoints import embedded_names

        if self.model is not None:
            return sf.load(self.model, config=self.config, ema=not self.raw)
        return self._embedded("model", map(sf.load, embedded_names()), sha256)

    def _classifier(self, sha256: str) -> Classifier:
        """The classifier named, or the embedded one with these weights."""
        from scoresde_fast.checkpoints import embedded_classifiers, load_classifier

        if self.classifier is not None:
            return load_classifier(self.classifier)
        return self._embedded("classifier", map(load_classifier, embedded_classifiers()), sha256)

    def _embedded(self, kind: str, candidates: Iterable[Trained], sha256: str) -> Trained:
        """The one with these weights; raises ValueError where there is none."""
        from scoresde_fast.fingerprint import weights_sha256

        for candidate in candidates:
            if weights_sha256(candidate) == sha256:
                return candidate
        raise ValueError(f"{self.out} was made with no embedded {kind}; name the one that did: --{kind}")
