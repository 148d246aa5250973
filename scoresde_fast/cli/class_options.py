# SPDX-License-Identifier: Apache-2.0
"""The classes of samples, at the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import arg

OF_DIGITS = "digits-classifier"
"""What tells the classes of the embedded models' images apart."""


@dataclass(frozen=True, kw_only=True)
class ClassOptions:
    """What the samples are guided to."""

    classes: Annotated[str | None, arg(name="class", help_behavior_hint="(default: any)")] = None
    """The class of the images, by its number or name; of several, 3,7,one, seed s has number s mod 3 of these three."""
    classifier: Annotated[str | None, arg(help_behavior_hint="(default: of the digits' models digits-classifier)")] = (
        None
    )
    """For --class: the noise-conditional classifier that guides, an embedded one or a folder that train wrote."""
    class_scale: Annotated[float | None, arg(help_behavior_hint="(default: 5)")] = None
    """For --class: of the guidance; above 1 images are more typical of their class, and vary less."""

    def guidance(self, model: str) -> dict[str, Any]:
        """The condition of samples of the model of that name, as `Sampler` takes it; none where no class is asked for.

        Raises:
            ValueError: there is a classifier without a class, or none for the model; or as `ClassGuidance`.
        """
        if self.classes is None:
            if self.classifier is not None or self.class_scale is not None:
                raise ValueError("--classifier and --class-scale are for --class: name the class too, as --class 3")
            return {}
        from scoresde_fast.checkpoints import embedded_names, load_classifier
        from scoresde_fast.conditions.classes import CLASS_SCALE, ClassGuidance, parse_classes

        classifier = self.classifier
        if classifier is None:
            if not (model.startswith("digits-") and model in embedded_names()):
                raise ValueError(
                    f"--class needs a classifier of the images of {model}: --classifier FOLDER, one that "
                    "scoresde-fast train has trained"
                )
            classifier = OF_DIGITS
        known = load_classifier(classifier)
        classes = parse_classes(self.classes, known.classes)
        scale = CLASS_SCALE if self.class_scale is None else self.class_scale
        return {"condition": ClassGuidance(classes, known, scale=scale, in_turn=True)}
